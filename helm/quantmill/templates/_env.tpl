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

{{/* What a process under any user id on a read-only root cannot find out itself. Every cache lies below HOME. */}}
{{- define "quantmill.processEnv" -}}
{{- $process := dict
    "CUDA_CACHE_PATH" "/cache/cuda"
    "HF_HOME" "/cache/huggingface"
    "HOME" "/cache"
    "LOGNAME" "quantmill"
    "MPLCONFIGDIR" "/cache/matplotlib"
    "NUMBA_CACHE_DIR" "/cache/numba"
    "TMPDIR" "/tmp"
    "TORCHINDUCTOR_CACHE_DIR" "/cache/torchinductor"
    "TRITON_CACHE_DIR" "/cache/triton"
    "USER" "quantmill"
    "XDG_CACHE_HOME" "/cache/xdg"
-}}
{{- include "quantmill.byName" (list $process (include "quantmill.networkEnv" . | fromYaml) (include "quantmill.hubEnv" . | fromYaml)) -}}
{{- end -}}

{{/* Proxies and trusted certificates. */}}
{{- define "quantmill.networkEnv" -}}
{{- $env := dict -}}
{{- range $scheme := list "http" "https" -}}
{{- with index $.Values.proxy (printf "%sProxy" $scheme) -}}
{{- $_ := set $env (printf "%s_proxy" $scheme) . -}}
{{- $_ := set $env (printf "%s_PROXY" (upper $scheme)) . -}}
{{- end -}}
{{- end -}}
{{- if $env -}}
{{- $cluster := list "localhost" "127.0.0.1" "::1" ".svc" (printf ".%s" .Values.clusterDomain) (printf "%s-api" (include "quantmill.fullname" .)) -}}
{{- $never := concat .Values.proxy.noProxy $cluster | join "," -}}
{{- $_ := set $env "no_proxy" $never -}}
{{- $_ := set $env "NO_PROXY" $never -}}
{{- end -}}
{{- if include "quantmill.trustedVolume" . -}}
{{- $bundle := printf "%s/%s" (include "quantmill.trustedDir" .) .Values.trustedCA.key -}}
{{- range $name := list "CURL_CA_BUNDLE" "REQUESTS_CA_BUNDLE" "SSL_CERT_FILE" -}}
{{- $_ := set $env $name $bundle -}}
{{- end -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{/* What Hugging Face's libraries are told of the network. */}}
{{- define "quantmill.hubEnv" -}}
{{- $env := dict -}}
{{- if .Values.offline.enabled -}}
{{- range $name := list "DO_NOT_TRACK" "HF_DATASETS_OFFLINE" "HF_HUB_DISABLE_TELEMETRY" "HF_HUB_OFFLINE" "TRANSFORMERS_OFFLINE" -}}
{{- $_ := set $env $name "1" -}}
{{- end -}}
{{- end -}}
{{- with .Values.offline.hubEndpoint -}}
{{- $_ := set $env "HF_ENDPOINT" . -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{/* Maps by name, later ones first where both have a name; what stands under a name is replaced as a whole. */}}
{{- define "quantmill.byName" -}}
{{- $merged := dict -}}
{{- range . -}}
{{- range $name, $item := . -}}
{{- $_ := set $merged $name $item -}}
{{- end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* A container's `env` list from a map of name -> string, or -> the map that stands under valueFrom. */}}
{{- define "quantmill.env" -}}
{{- range $name, $value := . }}
- name: {{ $name | quote }}
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
  name: {{ .secret | default (include "quantmill.urlSecret" .) | quote }}
  key: {{ include "quantmill.urlKey" . | quote }}
{{- end -}}

{{/* The URLs that API, scheduler and workers need, as a YAML map of valueFrom. */}}
{{- define "quantmill.serviceEnv" -}}
QUANTMILL_DATABASE_URL: {{- include "quantmill.urlFrom" (dict "root" . "store" "database") | nindent 2 }}
QUANTMILL_BROKER_URL: {{- include "quantmill.urlFrom" (dict "root" . "store" "broker") | nindent 2 }}
{{- end -}}
