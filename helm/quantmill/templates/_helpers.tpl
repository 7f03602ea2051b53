{{/* Names and labels. All take the root context unless they say otherwise. */}}

{{- define "quantmill.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 34 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of all object names: 34 characters at most, so that "-worker-" and a pool's name still fit into a label. */}}
{{- define "quantmill.fullname" -}}
{{- $name := include "quantmill.name" . -}}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $default | trunc 34 | trimSuffix "-" -}}
{{- end -}}

{{/* The ServiceAccount of a component: (dict "root" $ "component" name "pool" name or "" "values" the component's). */}}
{{- define "quantmill.serviceAccountName" -}}
{{- $made := printf "%s-%s" (include "quantmill.fullname" .root) (list .component .pool | compact | join "-") -}}
{{- $all := .root.Values.serviceAccount -}}
{{- $default := $all.create | ternary $made ($all.name | default "default") -}}
{{- dig "serviceAccount" "name" "" .values | default $default -}}
{{- end -}}

{{/* The Secret of a URL: (dict "root" $ "store" "database" | "broker"). */}}
{{- define "quantmill.urlSecret" -}}
{{- $external := (index .root.Values .store).external -}}
{{- with include "quantmill.bundled" . -}}
{{- include "quantmill.store.secret" (index $.root.Subcharts .) -}}
{{- else -}}
{{- $external.existingSecret | default (printf "%s-%s" (include "quantmill.fullname" .root) .store) -}}
{{- end -}}
{{- end -}}

{{/* The key of the URL in that Secret. */}}
{{- define "quantmill.urlKey" -}}
{{- if include "quantmill.bundled" . }}url{{ else }}{{ (index .root.Values .store).external.urlKey }}{{ end -}}
{{- end -}}

{{- define "quantmill.claim" -}}
{{- .Values.artifacts.pvc.existingClaim | default (printf "%s-data" (include "quantmill.fullname" .)) -}}
{{- end -}}

{{/* What a selector matches; immutable in a Deployment, so nothing here may carry a version.
     (dict "root" $ "component" name "pool" name or "") */}}
{{- define "quantmill.selectorLabels" -}}
app.kubernetes.io/name: {{ include "quantmill.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
quantmill/pool: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Labels of an object: as selectorLabels, without a component for what belongs to all. */}}
{{- define "quantmill.labels" -}}
{{- $labels := dict
    "app.kubernetes.io/name" (include "quantmill.name" .root)
    "app.kubernetes.io/instance" .root.Release.Name
    "app.kubernetes.io/managed-by" .root.Release.Service
    "app.kubernetes.io/part-of" "quantmill"
    "app.kubernetes.io/version" .root.Chart.AppVersion
    "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")
-}}
{{- with .component }}{{- $_ := set $labels "app.kubernetes.io/component" . }}{{- end }}
{{- with .pool }}{{- $_ := set $labels "quantmill/pool" . }}{{- end }}
{{- toYaml (mustMergeOverwrite (deepCopy .root.Values.global.labels) $labels) -}}
{{- end -}}
