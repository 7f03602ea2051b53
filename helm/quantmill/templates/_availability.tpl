{{/* Pods that may be away, and where they run. */}}

{{/* A PodDisruptionBudget: (dict "root" $ "component" name "pool" name or "" "values" the component's values "least" pods
     that there are at least). With a single pod there is none: it could never be moved. */}}
{{- define "quantmill.disruptionBudget" -}}
{{- $pdb := .values.pdb -}}
{{- if and $pdb.enabled (gt (int .least) 1) -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "quantmill.fullname" .root }}-{{ .component }}{{ with .pool }}-{{ . }}{{ end }}
  labels: {{- include "quantmill.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $pdb.maxUnavailable }}
  # a pod that does not work anyway holds up no drain
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "quantmill.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* A pod's topologySpreadConstraints, counted over its own component and pool, and over one version of it. */}}
{{- define "quantmill.spread" -}}
{{- $own := include "quantmill.selectorLabels" . | fromYaml -}}
{{- with .values.topologySpreadConstraints -}}
topologySpreadConstraints:
  {{- range . }}
  {{- $defaults := dict "labelSelector" (dict "matchLabels" $own) "matchLabelKeys" (list "pod-template-hash") }}
  - {{- toYaml (merge (deepCopy .) $defaults) | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}
