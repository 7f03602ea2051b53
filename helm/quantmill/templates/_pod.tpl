{{/* The pod template of every workload.

     root         the root context
     component    api | scheduler | worker | migrate ...: label, and name of the container
     pool         the pool's name, or ""
     values       the component's values: resources, podAnnotations, nodeSelector, extraEnv ...
     command      what runs instead of `quantmill`, or nothing
     args         what stands after the command
     env          map of variables, beside those that every process gets
     config       true: the settings' ConfigMap is read; a change in it or in the URLs rolls the pods
     data         name of the claim mounted as the data folder; "" for a scratch folder
     sources      true: the sources are mounted
     schema       wait | migrate: what an init container does about the database's schema; "" for none
     ends         true: the pod ends by itself, so nothing may run beside its container
     account      the ServiceAccount, where it is not that of the component
     container    map merged into the container: ports, probes, lifecycle
     pod          map merged into the pod spec: restartPolicy ...
*/}}
{{- define "quantmill.podTemplate" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $volumes := include "quantmill.volumes" . | fromYaml -}}
{{- $init := concat (include "quantmill.extraContainers" (dict "root" $root "values" $values "key" "extraInitContainers") | fromYamlArray) (include "quantmill.schemaContainer" . | fromYamlArray) -}}
metadata:
  labels:
    {{- /* no version here: a new chart alone must not restart workers */}}
    {{- $labels := mustMergeOverwrite (deepCopy $root.Values.global.labels) (deepCopy $values.podLabels) }}
    {{- toYaml (mustMergeOverwrite $labels (include "quantmill.selectorLabels" . | fromYaml)) | nindent 4 }}
  annotations:
    {{- if .config }}
    checksum/config: {{ include "quantmill.configData" $root | sha256sum }}
    checksum/urls: {{ list $root.Values.database.external.url $root.Values.broker.external.url | toJson | sha256sum }}
    {{- end }}
    {{- if $values.doNotDisrupt }}
    karpenter.sh/do-not-disrupt: "true"
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    {{- end }}
    kubectl.kubernetes.io/default-container: {{ .component }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ .account | default (include "quantmill.serviceAccountName" .) | quote }}
  automountServiceAccountToken: false
  # a Service called "quantmill" would set QUANTMILL_PORT=tcp://... in every pod
  enableServiceLinks: false
  securityContext: {{- include "quantmill.podSecurityContext" $root | nindent 4 }}
  {{- with $root.Values.global.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- with $values.terminationGracePeriodSeconds }}
  terminationGracePeriodSeconds: {{ int64 . }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" "resourceClaims" }}
  {{- with index $values $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with include "quantmill.spread" . }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .pod }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $init }}
  initContainers: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    {{- include "quantmill.container" (dict "name" .component "pod" . "command" .command "args" .args "env" .env "config" .config "resources" $values.resources "sources" .sources "with" .container) | nindent 4 }}
    {{- if not .ends }}
    {{- with include "quantmill.extraContainers" (dict "root" $root "values" $values "key" "extraContainers") | fromYamlArray }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
  volumes:
    {{- range $name, $source := $volumes }}
    - name: {{ $name | quote }}
      {{- toYaml $source | nindent 6 }}
    {{- end }}
{{- end -}}

{{/* A container of ours, as a list of one.

     name, command, args, env, config, resources, sources    as in podTemplate
     pod      what podTemplate was given
     with     map merged into the container
*/}}
{{- define "quantmill.container" -}}
{{- $root := .pod.root -}}
{{- $values := .pod.values -}}
{{- $common := include "quantmill.processEnv" $root | fromYaml -}}
{{- $extra := include "quantmill.byName" (list $root.Values.extraEnv $values.extraEnv) | fromYaml -}}
{{- $env := include "quantmill.byName" (list $common $extra .env) | fromYaml -}}
{{- $from := concat $root.Values.extraEnvFrom ($values.extraEnvFrom | default list) -}}
{{- if .config -}}
{{- $from = prepend $from (dict "configMapRef" (dict "name" (include "quantmill.fullname" $root))) -}}
{{- end -}}
- name: {{ .name | quote }}
  image: {{ include "quantmill.image" (dict "root" $root "override" $values.image) | quote }}
  imagePullPolicy: {{ ($values.image | default dict).pullPolicy | default $root.Values.image.pullPolicy | quote }}
  command: {{- toYaml (.command | default (list "quantmill")) | nindent 4 }}
  {{- with .args }}
  args: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $from }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  env: {{- include "quantmill.env" $env | trim | nindent 4 }}
  {{- with .with }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  resources: {{- toYaml .resources | nindent 4 }}
  securityContext: {{- include "quantmill.containerSecurityContext" $root | nindent 4 }}
  volumeMounts: {{- include "quantmill.mounts" (include "quantmill.ownMounts" (dict "pod" .pod "sources" .sources) | fromYaml) | trim | nindent 4 }}
{{- end -}}

{{/* The init container that waits for the schema, or makes it; an empty list where `schema` asks for none. */}}
{{- define "quantmill.schemaContainer" -}}
{{- $migrations := .root.Values.migrations -}}
{{- $env := dict
    "QUANTMILL_DATA_DIR" (include "quantmill.dataDir" .root)
    "QUANTMILL_DATABASE_URL" (include "quantmill.urlFrom" (dict "root" .root "store" "database") | fromYaml)
-}}
{{- $schema := .schema | default "" -}}
{{- if eq $schema "migrate" -}}
{{- include "quantmill.container" (dict "name" "migrate" "pod" . "args" (list "migrate") "env" $env "resources" $migrations.resources) }}
{{- else if and (eq $schema "wait") $migrations.waitInit -}}
{{- $args := list "migrate" "--wait" (int64 $migrations.waitTimeoutSeconds | toString) -}}
{{- include "quantmill.container" (dict "name" "wait-schema" "pod" . "args" $args "env" $env "resources" $migrations.resources) }}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* Containers of the users': (dict "root" $ "values" the component's "key" extraInitContainers | extraContainers). They
     are as restricted as ours, have /tmp and the trusted certificates, and run the chart's image unless they name one. */}}
{{- define "quantmill.extraContainers" -}}
{{- $root := .root -}}
{{- $found := list -}}
{{- $common := include "quantmill.networkEnv" $root | fromYaml -}}
{{- range $name, $given := include "quantmill.byName" (list (index $root.Values .key) (index .values .key)) | fromYaml -}}
{{- $mounts := dict "/tmp" (dict "name" "tmp") -}}
{{- $mounts = include "quantmill.byName" (list $mounts (include "quantmill.trustedMount" $root | fromYaml) $given.volumeMounts) | fromYaml -}}
{{- $env := include "quantmill.byName" (list $common $given.env) | fromYaml -}}
{{- $made := dict
    "name" $name
    "image" (include "quantmill.image" (dict "root" $root "override" $given.image))
    "imagePullPolicy" (($given.image | default dict).pullPolicy | default $root.Values.image.pullPolicy)
    "resources" ($given.resources | default (dict "requests" (dict "cpu" "10m" "memory" "32Mi") "limits" (dict "memory" "256Mi")))
    "securityContext" (include "quantmill.containerSecurityContext" $root | fromYaml)
    "volumeMounts" (include "quantmill.mounts" $mounts | fromYamlArray)
-}}
{{- if $env -}}
{{- $_ := set $made "env" (include "quantmill.env" $env | fromYamlArray) -}}
{{- end -}}
{{- $found = append $found (merge $made (omit $given "image" "resources" "volumeMounts" "env")) -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* Probes of a process that answers no requests: it touches a file as long as it works. No shell, no packages, no
     broker; a database that is away for as long restarts the pod, which then waits for it. */}}
{{- define "quantmill.heartbeat" -}}
{{- $age := "import os,sys,time; sys.exit(time.time() - os.stat(os.environ['QUANTMILL_HEARTBEAT_FILE']).st_mtime > 120)" -}}
{{- $probe := dict "exec" (dict "command" (list "python3" "-S" "-c" $age)) "timeoutSeconds" 10 -}}
startupProbe: {{- toYaml (merge (dict "periodSeconds" 5 "failureThreshold" 60) $probe) | nindent 2 }}
livenessProbe: {{- toYaml (merge (dict "periodSeconds" 30 "failureThreshold" 3) $probe) | nindent 2 }}
{{- end -}}

{{/* What pods of a release's Deployments do about the schema. */}}
{{- define "quantmill.schemaOf" -}}
{{- and (eq .component "api") (eq .root.Values.migrations.mode "initContainer") | ternary "migrate" "wait" -}}
{{- end -}}
