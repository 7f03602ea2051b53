{{/* What the evaluation stores, charts/postgresql and charts/redis, have in common. `root` is the store's own context; its
     chart is named after the store. */}}

{{/* The enabled chart that stands for a store: (dict "root" $ "store" "database" | "broker"); empty for an external one. */}}
{{- define "quantmill.bundled" -}}
{{- $chart := get (dict "database" "postgresql" "broker" "redis") .store -}}
{{- if (index .root.Values $chart).enabled }}{{ $chart }}{{ end -}}
{{- end -}}

{{/* The Secret with a store's `password` and its `url`. */}}
{{- define "quantmill.store.secret" -}}
{{- .Values.auth.existingSecret | default (include "quantmill.fullname" .) -}}
{{- end -}}

{{/* The Secret, with a password that an earlier installation generated or a new one:
     (dict "root" $ "url" format of the URL with one %s for the password and one for the host "keep" bool) */}}
{{- define "quantmill.store.generated" -}}
{{- $name := include "quantmill.fullname" .root }}
{{- $earlier := dig "data" "password" "" (lookup "v1" "Secret" .root.Release.Namespace $name) }}
{{- $password := $earlier | b64dec | default (randAlphaNum 32) }}
apiVersion: v1
kind: Secret
metadata:
  name: {{ $name }}
  labels: {{- include "quantmill.labels" (dict "root" .root) | nindent 4 }}
  {{- if .keep }}
  annotations:
    # the claim outlives the release, and opens with this password alone
    helm.sh/resource-policy: keep
  {{- end }}
type: Opaque
stringData:
  password: {{ $password }}
  url: {{ printf .url $password $name }}
{{- end -}}

{{/* A Service, a NetworkPolicy that lets in what belongs to the release, and a StatefulSet of one pod.

     root         the store's context
     port         its port
     container    the container's args, env, probes; env refers to the password itself
     writable     name -> path of the folders that the server writes to, beside its data
     data         path of its data
*/}}
{{- define "quantmill.store" -}}
{{- $root := .root -}}
{{- $name := include "quantmill.fullname" $root -}}
{{- $selector := dict "root" $root "component" $root.Chart.Name -}}
{{- $persistence := $root.Values.persistence | default (dict "enabled" false "size" "1Gi") -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{- include "quantmill.labels" $selector | nindent 4 }}
spec:
  type: ClusterIP
  selector: {{- include "quantmill.selectorLabels" $selector | nindent 4 }}
  ports:
    - name: {{ $root.Chart.Name }}
      port: {{ .port }}
      targetPort: {{ $root.Chart.Name }}
      protocol: TCP
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  labels: {{- include "quantmill.labels" $selector | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{- include "quantmill.selectorLabels" $selector | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              app.kubernetes.io/instance: {{ $root.Release.Name }}
      ports:
        - port: {{ $root.Chart.Name }}
          protocol: TCP
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  labels: {{- include "quantmill.labels" $selector | nindent 4 }}
spec:
  serviceName: {{ $name }}
  replicas: 1
  selector:
    matchLabels: {{- include "quantmill.selectorLabels" $selector | nindent 6 }}
  template:
    metadata:
      labels: {{- mustMergeOverwrite (deepCopy $root.Values.global.labels) (include "quantmill.selectorLabels" $selector | fromYaml) | toYaml | nindent 8 }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ $root.Chart.Name }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {{- include "quantmill.podSecurityContext" $root | nindent 8 }}
      {{- with $root.Values.global.imagePullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      terminationGracePeriodSeconds: 60
      {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
      {{- with index $root.Values $key }}
      {{ $key }}: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- end }}
      containers:
        - name: {{ $root.Chart.Name }}
          image: {{ include "quantmill.image" (dict "root" $root) | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          {{- toYaml .container | nindent 10 }}
          ports:
            - name: {{ $root.Chart.Name }}
              containerPort: {{ .port }}
              protocol: TCP
          resources: {{- toYaml $root.Values.resources | nindent 12 }}
          securityContext: {{- include "quantmill.containerSecurityContext" $root | nindent 12 }}
          volumeMounts:
            - name: data
              mountPath: {{ .data }}
            {{- range $volume, $path := .writable }}
            - name: {{ $volume }}
              mountPath: {{ $path }}
            {{- end }}
      volumes:
        {{- range $volume, $path := .writable }}
        - name: {{ $volume }}
          emptyDir:
            sizeLimit: 64Mi
        {{- end }}
        {{- if not $persistence.enabled }}
        - name: data
          emptyDir:
            sizeLimit: {{ $persistence.size }}
        {{- end }}
  {{- if $persistence.enabled }}
  volumeClaimTemplates:
    - apiVersion: v1
      kind: PersistentVolumeClaim
      metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $persistence.storageClass | default $root.Values.global.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $persistence.size }}
  {{- end }}
{{- end -}}

{{/* What a bundled store excludes. */}}
{{- define "quantmill.validateBundled" -}}
{{- range $store := list "database" "broker" -}}
{{- $external := (index $.Values $store).external -}}
{{- with include "quantmill.bundled" (dict "root" $ "store" $store) -}}
{{- if or $external.url $external.existingSecret -}}
{{- fail (printf "%s.enabled and %s.external are both set; keep one of them" . $store) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.postgresql.enabled (eq .Values.migrations.mode "hook") -}}
{{- fail "migrations.mode hook runs before postgresql.enabled starts the database; choose mode job" -}}
{{- end -}}
{{- end -}}
