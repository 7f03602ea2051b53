{{/* The image reference of every container: (dict "root" $ "override" keys that replace those of `image`). */}}
{{- define "quantmill.image" -}}
{{- $image := mustMergeOverwrite (deepCopy .root.Values.image) (deepCopy (.override | default dict)) -}}
{{- $registry := .root.Values.global.imageRegistry | default $image.registry -}}
{{- $name := printf "%s/%s" $registry $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
