{{/* Where the API is to be found from outside, and how to try it; for NOTES.txt. */}}
{{- define "quantmill.notes.net" -}}
{{- $values := .Values -}}
{{- $hosts := list -}}
{{- if $values.ingress.enabled -}}
{{- range $values.ingress.hosts -}}
{{- $hosts = append $hosts (printf "%s://%s" ($values.ingress.tls | empty | ternary "http" "https") .) -}}
{{- end -}}
{{- end -}}
{{- if $values.httpRoute.enabled -}}
{{- range $values.httpRoute.hostnames -}}
{{- $hosts = append $hosts (printf "%s, by the Gateway" .) -}}
{{- end -}}
{{- end -}}
{{- if and $values.route.enabled $values.route.host -}}
{{- $hosts = append $hosts (printf "%s://%s" (eq $values.route.tls.termination "none" | ternary "http" "https") $values.route.host) -}}
{{- end -}}
{{- with $hosts }}

From outside it is at
{{- range . }}
  {{ . }}
{{- end }}
for the paths {{ join ", " $values.api.publicPaths }}. It asks nobody who he is: let a proxy do that.
{{- end }}
{{- if $values.tests.enabled }}

See whether it works:
  helm test {{ .Release.Name }} --namespace {{ .Release.Namespace }}
{{- end }}
{{- end -}}
