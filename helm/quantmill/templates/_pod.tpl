{{/* The pod template of every workload.

     root         the root context
     component    api | scheduler | worker | migrate
     pool         the pool's name, or ""
     values       the component's values: resources, podAnnotations, nodeSelector ...
     command      what runs instead of `quantmill`, or nothing
     args         what stands after the command
     env          map of variables, beside the process's own
     config       true: the settings' ConfigMap is read; a change in it or in the URLs rolls the pods
     data         name of the claim mounted as the data folder; "" for a scratch folder
     sources      true: the sources are mounted
     container    map merged into the container: ports, probes, lifecycle
     pod          map merged into the pod spec: restartPolicy ...
*/}}
{{- define "quantmill.podTemplate" -}}
{{- $root := .root -}}
{{- $env := mustMergeOverwrite (include "quantmill.processEnv" $root | fromYaml) .env -}}
metadata:
  labels:
    {{- /* no version here: a new chart alone must not restart workers */}}
    {{- $labels := mustMergeOverwrite (deepCopy $root.Values.commonLabels) (deepCopy .values.podLabels) }}
    {{- toYaml (mustMergeOverwrite $labels (include "quantmill.selectorLabels" . | fromYaml)) | nindent 4 }}
  annotations:
    {{- if .config }}
    checksum/config: {{ include "quantmill.configData" $root | sha256sum }}
    checksum/urls: {{ list $root.Values.database.external.url $root.Values.broker.external.url | toJson | sha256sum }}
    {{- end }}
    {{- if .values.doNotDisrupt }}
    karpenter.sh/do-not-disrupt: "true"
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    {{- end }}
    kubectl.kubernetes.io/default-container: {{ .component }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  # a Service called "quantmill" would set QUANTMILL_PORT=tcp://... in every pod
  enableServiceLinks: false
  securityContext: {{- include "quantmill.podSecurityContext" $root | nindent 4 }}
  {{- with $root.Values.global.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .values.terminationGracePeriodSeconds }}
  terminationGracePeriodSeconds: {{ . }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
  {{- with index $.values $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with include "quantmill.spread" . }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .pod }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "quantmill.image" (dict "root" $root "override" .values.image) }}
      imagePullPolicy: {{ (.values.image | default dict).pullPolicy | default $root.Values.image.pullPolicy }}
      command: {{- toYaml (.command | default (list "quantmill")) | nindent 8 }}
      {{- with .args }}
      args: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if .config }}
      envFrom:
        - configMapRef:
            name: {{ include "quantmill.fullname" $root }}
      {{- end }}
      env: {{- include "quantmill.env" $env | trim | nindent 8 }}
      {{- with .container }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      resources: {{- toYaml .values.resources | nindent 8 }}
      securityContext: {{- include "quantmill.containerSecurityContext" $root | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: {{ include "quantmill.dataDir" $root }}
        - name: cache
          mountPath: /cache
        - name: tmp
          mountPath: /tmp
        {{- if .sources }}
        {{- range $name, $source := $root.Values.sources }}
        - name: source-{{ $name }}
          mountPath: {{ $source.mountPath }}
          {{- with $source.subPath }}
          subPath: {{ . }}
          {{- end }}
          readOnly: true
        {{- end }}
        {{- end }}
  volumes:
    - name: data
      {{- if .data }}
      persistentVolumeClaim:
        claimName: {{ .data }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ .values.scratchSize | default "1Gi" }}
      {{- end }}
    - name: cache
      emptyDir:
        sizeLimit: {{ .values.scratchSize | default "1Gi" }}
    - name: tmp
      emptyDir:
        sizeLimit: {{ .values.scratchSize | default "1Gi" }}
    {{- if .sources }}
    {{- range $name, $source := $root.Values.sources }}
    - name: source-{{ $name }}
      persistentVolumeClaim:
        claimName: {{ $source.claim }}
        readOnly: true
    {{- end }}
    {{- end }}
{{- end -}}

{{/* Probes of a process that answers no requests: it touches a file as long as it works. No shell, no packages, no
     broker; a database that is away for as long restarts the pod, which then waits for it. */}}
{{- define "quantmill.heartbeat" -}}
{{- $age := "import os,sys,time; sys.exit(time.time() - os.stat(os.environ['QUANTMILL_HEARTBEAT_FILE']).st_mtime > 120)" -}}
{{- $probe := dict "exec" (dict "command" (list "python3" "-S" "-c" $age)) "timeoutSeconds" 10 -}}
startupProbe: {{- toYaml (merge (dict "periodSeconds" 5 "failureThreshold" 60) $probe) | nindent 2 }}
livenessProbe: {{- toYaml (merge (dict "periodSeconds" 30 "failureThreshold" 3) $probe) | nindent 2 }}
{{- end -}}

{{- define "quantmill.dataDir" -}}
/var/lib/quantmill
{{- end -}}
