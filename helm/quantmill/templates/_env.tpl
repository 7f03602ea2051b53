{{/* Environment. It is built as maps, so that a name cannot appear twice. */}}

{{/* A setting as QUANTMILL_* wants it: strings as they are, everything else as JSON (never 8.64e+07). */}}
{{- define "quantmill.setting" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* `config` or a pool's `config` as a YAML map of QUANTMILL_* variables. */}}
{{- define "quantmill.settings" -}}
{{- $environment := dict -}}
{{- range $name, $value := . -}}
{{- $_ := set $environment (printf "QUANTMILL_%s" (upper $name)) (include "quantmill.setting" $value) -}}
{{- end -}}
{{- toYaml $environment -}}
{{- end -}}

{{/* The ConfigMap's data: what the chart itself decides wins over `config`. */}}
{{- define "quantmill.configData" -}}
{{- $folder := include "quantmill.dataDir" . -}}
{{- $roots := list -}}
{{- range .Values.sources }}{{- $roots = append $roots .mountPath }}{{- end -}}
{{- $decided := dict
    "QUANTMILL_DATA_DIR" $folder
    "QUANTMILL_SOURCE_ROOTS" ($roots | default (list (printf "%s/sources" $folder)) | toJson)
-}}
{{- toYaml (mustMergeOverwrite (include "quantmill.settings" .Values.config | fromYaml) $decided) -}}
{{- end -}}

{{/* What a process under any user id on a read-only root cannot find out itself; caches go below HOME. */}}
{{- define "quantmill.processEnv" -}}
HOME: /cache
LOGNAME: quantmill
TMPDIR: /tmp
USER: quantmill
{{- end -}}

{{/* A container's `env` list from a map of name -> string, or -> the map that stands under valueFrom. */}}
{{- define "quantmill.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  {{- if kindIs "map" $value }}
  valueFrom: {{- toYaml $value | nindent 4 }}
  {{- else }}
  value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The valueFrom of a URL: (dict "root" $ "store" "database" | "broker" "secret" name or ""). */}}
{{- define "quantmill.urlFrom" -}}
secretKeyRef:
  name: {{ .secret | default (include "quantmill.urlSecret" .) }}
  key: {{ (index .root.Values .store).external.urlKey }}
{{- end -}}

{{/* The URLs that API, scheduler and workers need, as a YAML map of valueFrom. */}}
{{- define "quantmill.serviceEnv" -}}
QUANTMILL_DATABASE_URL: {{- include "quantmill.urlFrom" (dict "root" . "store" "database") | nindent 2 }}
QUANTMILL_BROKER_URL: {{- include "quantmill.urlFrom" (dict "root" . "store" "broker") | nindent 2 }}
{{- end -}}
