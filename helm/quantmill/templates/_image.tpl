{{/* The image reference of every container: (dict "root" $ "override" keys that replace those of `image`). A digest belongs
     to one repository and tag: an override of either takes the digest away. */}}
{{- define "quantmill.image" -}}
{{- $override := .override | default dict -}}
{{- $image := mustMergeOverwrite (deepCopy .root.Values.image) (deepCopy $override) -}}
{{- if or $override.repository $override.tag -}}
{{- $_ := set $image "digest" $override.digest -}}
{{- end -}}
{{- $registry := .root.Values.global.imageRegistry | default $image.registry -}}
{{- $name := list $registry .root.Values.global.imageNamespace $image.repository | compact | join "/" -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
