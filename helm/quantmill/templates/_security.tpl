{{/* Pod Security "restricted", for every pod. No user id is set: the image names one, and OpenShift chooses its own. */}}

{{- define "quantmill.isOpenShift" -}}
{{- $choice := .Values.global.openshift | toString -}}
{{- if or (eq $choice "true") (and (eq $choice "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}
true
{{- end -}}
{{- end -}}

{{- define "quantmill.podSecurityContext" -}}
{{- $chosen := deepCopy .Values.podSecurityContext -}}
{{- if include "quantmill.isOpenShift" . -}}
{{- $chosen = omit $chosen "fsGroup" "runAsUser" "runAsGroup" -}}
{{- end -}}
{{- $restricted := dict "runAsNonRoot" true "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (mustMergeOverwrite $chosen $restricted) -}}
{{- end -}}

{{- define "quantmill.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}
