{{/* Rules of the NetworkPolicies. */}}

{{/* Who may reach the API: the release's own tests, and who the values name. Nothing where they name nobody. */}}
{{- define "quantmill.policy.callers" -}}
{{- $allowed := .Values.networkPolicy.ingress -}}
{{- $peers := list -}}
{{- with $allowed.fromNamespaces -}}
{{- $expression := dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" . -}}
{{- $peers = append $peers (dict "namespaceSelector" (dict "matchExpressions" (list $expression))) -}}
{{- end -}}
{{- range $allowed.fromPods -}}
{{- $peers = append $peers (dict "podSelector" (dict "matchLabels" .)) -}}
{{- end -}}
{{- $peers = concat $peers $allowed.fromPeers -}}
{{- if $peers -}}
{{- $own := include "quantmill.selectorLabels" (dict "root" . "component" "test") | fromYaml -}}
{{- toYaml (prepend $peers (dict "podSelector" (dict "matchLabels" $own))) -}}
{{- end -}}
{{- end -}}

{{/* One egress rule to `networkPolicy.egress.NAME`: (dict "root" $ "name" dns | postgres | redis). */}}
{{- define "quantmill.policy.towards" -}}
{{- $peers := index .root.Values.networkPolicy.egress .name -}}
{{- $protocols := eq .name "dns" | ternary (list "UDP" "TCP") (list "TCP") -}}
- ports:
    {{- range $port := $peers.ports }}
    {{- range $protocols }}
    - port: {{ $port }}
      protocol: {{ . | quote }}
    {{- end }}
    {{- end }}
  {{- with $peers.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Restricted egress: (dict "root" $ "component" name "towards" names under networkPolicy.egress). */}}
{{- define "quantmill.policy.egress" -}}
{{- $root := .root -}}
{{- range .towards }}
{{ include "quantmill.policy.towards" (dict "root" $root "name" .) }}
{{- end }}
{{- if eq .component "test" }}
- ports:
    - port: http
      protocol: TCP
  to:
    - podSelector:
        matchLabels: {{- include "quantmill.selectorLabels" (dict "root" $root "component" "api") | nindent 10 }}
{{- end }}
{{- with $root.Values.networkPolicy.egress.extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}
