{{/* Values that had another name: the old path, with * for any name, and what to use now. helm/model/removed.py has the same
     table, so that the schema lets them come this far. */}}
{{- define "quantmill.removed" -}}
commonLabels: global.labels
migrations.enabled: migrations.mode, with `none` for false
workers.defaults.scratchSize: workers.defaults.scratch.size
workers.pools.*.scratchSize: workers.pools.*.scratch.size
{{- end -}}

{{/* Fails at a value of that table: (dict "values" the map "path" keys that are left "shown" keys so far "instead" text). */}}
{{- define "quantmill.refuseRemoved" -}}
{{- $key := first .path -}}
{{- $rest := rest .path -}}
{{- range $name := eq $key "*" | ternary (keys .values | sortAlpha) (list $key) -}}
{{- if hasKey $.values $name -}}
{{- $shown := append $.shown $name -}}
{{- $found := index $.values $name -}}
{{- if not $rest -}}
{{- fail (printf "%s is no longer a value: use %s; see UPGRADING.md" (join "." $shown) $.instead) -}}
{{- else if kindIs "map" $found -}}
{{- include "quantmill.refuseRemoved" (dict "values" $found "path" $rest "shown" $shown "instead" $.instead) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
