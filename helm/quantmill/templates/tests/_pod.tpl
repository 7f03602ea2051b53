{{/* A pod of `helm test`: (dict "root" $ "name" name "script" file under files/tests "args" its arguments "data" claim or "").
     It is removed when it has succeeded, and kept for its log otherwise. */}}
{{- define "quantmill.testPod" -}}
{{- $root := .root -}}
{{- $name := printf "%s-test-%s" (include "quantmill.fullname" $root) .name -}}
{{- $server := printf "http://%s-api:%v" (include "quantmill.fullname" $root) $root.Values.api.service.port -}}
{{- $pod := include "quantmill.podTemplate" (dict
    "root" $root
    "component" "test"
    "values" (merge (dict "podLabels" dict) $root.Values.tests)
    "command" (list "python3" "-c" ($root.Files.Get (printf "files/tests/%s" .script)))
    "args" .args
    "env" (dict "QUANTMILL_DATA_DIR" (include "quantmill.dataDir" $root) "QUANTMILL_SERVER" $server)
    "data" .data
    "ends" true
    "pod" (dict "restartPolicy" "Never")
) | fromYaml -}}
{{- $hook := dict "helm.sh/hook" "test" "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" -}}
{{- $_ := set $pod.metadata "name" $name -}}
{{- $_ := set $pod.metadata "annotations" (merge $hook ($pod.metadata.annotations | default dict)) -}}
{{- $_ := set $pod.metadata "labels" (merge $pod.metadata.labels (include "quantmill.labels" (dict "root" $root "component" "test") | fromYaml)) -}}
{{- toYaml (merge (dict "apiVersion" "v1" "kind" "Pod") $pod) -}}
{{- end -}}
