{{/* What the schema cannot say, because it looks at several keys. Each message names the keys. */}}
{{- define "quantmill.validate" -}}
{{- include "quantmill.guardNet" . -}}
{{- range $store := list "database" "broker" -}}
{{- $external := (index $.Values $store).external -}}
{{- if and $external.url $external.existingSecret -}}
{{- fail (printf "%s.external.url and %s.external.existingSecret are both set; keep one of them" $store $store) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.workers.pools -}}
{{- $pool := include "quantmill.pool" (dict "root" $ "name" $name) | fromYaml -}}
{{- if and (gt (int $pool.slots) 1) (eq (int $pool.threads) 0) -}}
{{- fail (printf "workers.pools.%s: with slots %d, threads must be set; 0 would give the pod's whole CPU limit to each job" $name (int $pool.slots)) -}}
{{- end -}}
{{- if and (eq (int $pool.threads) 0) (not (dig "limits" "cpu" "" $pool.resources)) -}}
{{- fail (printf "workers.pools.%s: threads is 0, which takes the pod's CPU limit, but resources.limits.cpu is not set; set one of them" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
