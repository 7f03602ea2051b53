{{/* Volumes and where they are mounted. They are built as maps by name and by path, so that neither appears twice. */}}

{{- define "quantmill.dataDir" -}}
/var/lib/quantmill
{{- end -}}

{{- define "quantmill.trustedDir" -}}
/etc/quantmill/ca
{{- end -}}

{{/* The volumes of a pod, by name; takes what podTemplate was given. */}}
{{- define "quantmill.volumes" -}}
{{- include "quantmill.byName" (list (include "quantmill.ownVolumes" . | fromYaml) .root.Values.extraVolumes .values.extraVolumes) -}}
{{- end -}}

{{- define "quantmill.ownVolumes" -}}
{{- $root := .root -}}
{{- $small := dict "type" "emptyDir" "size" "1Gi" -}}
{{- $volumes := dict
    "cache" (include "quantmill.volatile" (dict "root" $root "volume" (.values.modelCache | default $small)) | fromYaml)
    "data" (include "quantmill.dataVolume" (dict "claim" .data "size" ((.values.scratch | default $small).size)) | fromYaml)
    "tmp" (include "quantmill.volatile" (dict "root" $root "volume" (.values.scratch | default $small)) | fromYaml)
-}}
{{- if (.values.shm | default dict).enabled -}}
{{- $_ := set $volumes "shm" (dict "emptyDir" (dict "medium" "Memory" "sizeLimit" .values.shm.sizeLimit)) -}}
{{- end -}}
{{- with include "quantmill.trustedVolume" $root | fromYaml -}}
{{- $_ := set $volumes "trusted-ca" . -}}
{{- end -}}
{{- if .sources -}}
{{- range $name, $source := $root.Values.sources -}}
{{- $claim := dict "claimName" $source.claim "readOnly" true -}}
{{- $_ := set $volumes (printf "source-%s" $name) (dict "persistentVolumeClaim" $claim) -}}
{{- end -}}
{{- end -}}
{{- toYaml $volumes -}}
{{- end -}}

{{/* A pod's own mounts, by path: (dict "pod" what podTemplate was given "sources" true for the sources too). */}}
{{- define "quantmill.ownMounts" -}}
{{- $root := .pod.root -}}
{{- $mounts := dict
    "/cache" (dict "name" "cache")
    "/tmp" (dict "name" "tmp")
    (include "quantmill.dataDir" $root) (dict "name" "data")
-}}
{{- if (.pod.values.shm | default dict).enabled -}}
{{- $_ := set $mounts "/dev/shm" (dict "name" "shm") -}}
{{- end -}}
{{- if .sources -}}
{{- range $name, $source := $root.Values.sources -}}
{{- $mount := dict "name" (printf "source-%s" $name) "readOnly" true -}}
{{- with $source.subPath -}}{{- $_ := set $mount "subPath" . -}}{{- end -}}
{{- $_ := set $mounts $source.mountPath $mount -}}
{{- end -}}
{{- end -}}
{{- $trusted := include "quantmill.trustedMount" $root | fromYaml -}}
{{- include "quantmill.byName" (list $mounts $trusted $root.Values.extraVolumeMounts .pod.values.extraVolumeMounts) -}}
{{- end -}}

{{/* `volumeMounts` from a map of path -> the rest. */}}
{{- define "quantmill.mounts" -}}
{{- range $path, $mount := . }}
- mountPath: {{ $path | quote }}
  {{- toYaml $mount | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "quantmill.dataVolume" -}}
{{- if .claim -}}
persistentVolumeClaim:
  claimName: {{ .claim | quote }}
{{- else -}}
emptyDir:
  sizeLimit: {{ .size | quote }}
{{- end -}}
{{- end -}}

{{/* A volume whose content may be lost: (dict "root" $ "volume" scratch or modelCache). */}}
{{- define "quantmill.volatile" -}}
{{- if eq .volume.type "existingClaim" -}}
persistentVolumeClaim:
  claimName: {{ .volume.existingClaim | quote }}
{{- else if eq .volume.type "pvc" -}}
ephemeral:
  volumeClaimTemplate:
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .volume.storageClass | default .root.Values.global.storageClass }}
      storageClassName: {{ . | quote }}
      {{- end }}
      resources:
        requests:
          storage: {{ .volume.size | quote }}
{{- else -}}
emptyDir:
  sizeLimit: {{ .volume.size | quote }}
{{- end -}}
{{- end -}}

{{/* The volume with trusted certificates, or nothing. */}}
{{- define "quantmill.trustedVolume" -}}
{{- $items := list (dict "key" .Values.trustedCA.key "path" .Values.trustedCA.key) -}}
{{- if .Values.trustedCA.configMap -}}
{{- toYaml (dict "configMap" (dict "name" .Values.trustedCA.configMap "items" $items)) -}}
{{- else if .Values.trustedCA.secret -}}
{{- toYaml (dict "secret" (dict "secretName" .Values.trustedCA.secret "items" $items)) -}}
{{- end -}}
{{- end -}}

{{- define "quantmill.trustedMount" -}}
{{- if include "quantmill.trustedVolume" . -}}
{{- toYaml (dict (include "quantmill.trustedDir" .) (dict "name" "trusted-ca" "readOnly" true)) -}}
{{- end -}}
{{- end -}}
