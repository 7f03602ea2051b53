{{/* Pools of workers. */}}

{{/* One pool with its defaults filled in, as YAML: (dict "root" $ "name" pool). Maps merge, lists replace; what is added
     by name is replaced as a whole. */}}
{{- define "quantmill.pool" -}}
{{- $defaults := .root.Values.workers.defaults -}}
{{- $own := index .root.Values.workers.pools .name | default dict -}}
{{- $pool := mustMergeOverwrite (deepCopy $defaults) (deepCopy $own) -}}
{{- range $key := list "extraEnv" "extraVolumes" "extraVolumeMounts" "extraInitContainers" "extraContainers" -}}
{{- $_ := set $pool $key (include "quantmill.byName" (list (index $defaults $key) (index $own $key)) | fromYaml) -}}
{{- end -}}
{{- toYaml $pool -}}
{{- end -}}

{{/* The enabled pools by name, with their defaults filled in. */}}
{{- define "quantmill.pools" -}}
{{- $pools := dict -}}
{{- range $name, $_ := .Values.workers.pools -}}
{{- $pool := include "quantmill.pool" (dict "root" $ "name" $name) | fromYaml -}}
{{- if $pool.enabled -}}{{- $_ := set $pools $name $pool -}}{{- end -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end -}}

{{/* A pool's pod template: (dict "root" $ "name" pool "pool" its values). */}}
{{- define "quantmill.workerPod" -}}
{{- $pool := include "quantmill.withGpu" .pool | fromYaml -}}
{{- $scaledJob := eq $pool.kind "ScaledJob" -}}
{{- $env := include "quantmill.byName" (list (include "quantmill.serviceEnv" .root | fromYaml) (include "quantmill.settings" $pool.config | fromYaml)) | fromYaml -}}
{{- with $pool.queue -}}
{{- $_ := set $env "QUANTMILL_QUEUE" . -}}
{{- end -}}
{{- $_ := set $env "QUANTMILL_HEARTBEAT_FILE" "/tmp/heartbeat" -}}
{{- $_ := set $env "QUANTMILL_SLOTS" (int64 $pool.slots | toString) -}}
{{- if $pool.threads -}}
{{- $_ := set $env "QUANTMILL_THREADS" (int64 $pool.threads | toString) -}}
{{- else -}}
{{- /* a process sees all CPUs of the node, whatever its limit is */ -}}
{{- $_ := set $env "QUANTMILL_THREADS" (dict "resourceFieldRef" (dict "containerName" "worker" "resource" "limits.cpu" "divisor" "1")) -}}
{{- end -}}
{{- $args := list "worker" -}}
{{- $spec := dict -}}
{{- if $scaledJob -}}
{{- $args = list "worker" "--jobs" "1" "--idle-seconds" (int64 $pool.idleSeconds | toString) -}}
{{- $_ := set $spec "restartPolicy" "Never" -}}
{{- end -}}
{{- include "quantmill.podTemplate" (dict
    "root" .root
    "component" "worker"
    "pool" .name
    "values" $pool
    "args" $args
    "env" $env
    "container" (include "quantmill.heartbeat" .root | fromYaml)
    "config" true
    "data" (include "quantmill.claim" .root)
    "sources" true
    "schema" (include "quantmill.schemaOf" (dict "root" .root "component" "worker"))
    "ends" $scaledJob
    "pod" $spec
) -}}
{{- end -}}

{{/* A pool with what its GPU block asks for among its resources, tolerations and affinity. */}}
{{- define "quantmill.withGpu" -}}
{{- $pool := deepCopy . -}}
{{- $gpu := .gpu -}}
{{- if $gpu.enabled -}}
{{- $resource := eq $gpu.mig.strategy "mixed" | ternary (printf "nvidia.com/mig-%s" $gpu.mig.profile) $gpu.resourceName -}}
{{- if $gpu.count -}}
{{- $_ := set $pool "resources" (mustMergeOverwrite $pool.resources (dict "limits" (dict $resource (int64 $gpu.count | toString)))) -}}
{{- end -}}
{{- $_ := set $pool "config" (merge $pool.config (dict "device" "cuda")) -}}
{{- $_ := set $pool "runtimeClassName" $gpu.runtimeClassName -}}
{{- $_ := set $pool "tolerations" (concat $pool.tolerations $gpu.tolerations) -}}
{{- $_ := set $pool "affinity" (include "quantmill.gpuAffinity" (dict "affinity" $pool.affinity "gpu" $gpu) | fromYaml) -}}
{{- end -}}
{{- toYaml $pool -}}
{{- end -}}

{{/* (dict "affinity" the user's "gpu" block). Labels are those of NVIDIA's GPU feature discovery. Terms are alternatives,
     so what is required goes into each. */}}
{{- define "quantmill.gpuAffinity" -}}
{{- $gpu := .gpu -}}
{{- $required := list -}}
{{- with $gpu.products -}}
{{- $required = append $required (dict "key" "nvidia.com/gpu.product" "operator" "In" "values" .) -}}
{{- end -}}
{{- range $label, $least := dict "nvidia.com/gpu.memory" $gpu.minMemoryMiB "nvidia.com/gpu.compute.major" $gpu.minComputeMajor -}}
{{- if $least -}}
{{- $required = append $required (dict "key" $label "operator" "Gt" "values" (list (sub (int64 $least) 1 | toString))) -}}
{{- end -}}
{{- end -}}
{{- with $gpu.mig.strategy -}}
{{- $required = append $required (dict "key" "nvidia.com/mig.strategy" "operator" "In" "values" (list .)) -}}
{{- end -}}
{{- $preferred := list -}}
{{- range $rank, $product := $gpu.preferredProducts -}}
{{- $match := dict "key" "nvidia.com/gpu.product" "operator" "In" "values" (list $product) -}}
{{- $preferred = append $preferred (dict "weight" (sub 100 $rank) "preference" (dict "matchExpressions" (list $match))) -}}
{{- end -}}
{{- $node := dig "nodeAffinity" (dict) .affinity -}}
{{- if $required -}}
{{- $terms := list -}}
{{- range dig "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" (list (dict)) $node -}}
{{- $terms = append $terms (set . "matchExpressions" (concat (.matchExpressions | default list) $required)) -}}
{{- end -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
{{- end -}}
{{- if $preferred -}}
{{- $key := "preferredDuringSchedulingIgnoredDuringExecution" -}}
{{- $_ := set $node $key (concat (index $node $key | default list) $preferred) -}}
{{- end -}}
{{- if $node -}}{{- $_ := set .affinity "nodeAffinity" $node -}}{{- end -}}
{{- toYaml .affinity -}}
{{- end -}}

{{/* How a release's Prometheus tells what a pool's queue has to do: (dict "root" $ "pool" its values). Of a queue that has had no
     worker it knows nothing: then one pod is worth a try while jobs wait that no worker can run. */}}
{{- define "quantmill.queueLoad" -}}
{{- $release := include "quantmill.releaseMatchers" .root -}}
{{- printf "max(quantmill_queue_load{%s, queue=%q})" $release .pool.queue -}}
{{- printf " or max(quantmill_jobs_waiting{%s, reason=\"no_eligible_worker\"}) > bool 0" $release -}}
{{- end -}}

{{/* The labels that the ServiceMonitor gives to metrics of this release. */}}
{{- define "quantmill.releaseMatchers" -}}
{{- printf "namespace=%q, job=%q" .Release.Namespace (printf "%s-api" (include "quantmill.fullname" .)) -}}
{{- end -}}

{{/* KEDA's triggers for a pool, as a list: (dict "root" $ "name" pool "pool" its values). One replica for as many jobs as it
     has slots. */}}
{{- define "quantmill.triggers" -}}
{{- $slots := int64 .pool.slots | toString -}}
{{- if eq .pool.keda.trigger "prometheus" -}}
- type: prometheus
  metricType: AverageValue
  metadata:
    serverAddress: {{ .pool.keda.prometheusAddress | quote }}
    query: {{ .pool.keda.prometheusQuery | default (include "quantmill.queueLoad" .) | quote }}
    threshold: {{ $slots | quote }}
{{- else -}}
- type: metrics-api
  metricType: AverageValue
  metadata:
    url: {{ printf "http://%s-api.%s.svc.%s:%d/internal/autoscaling/%s" (include "quantmill.fullname" .root) .root.Release.Namespace .root.Values.clusterDomain (int64 .root.Values.api.service.port) .pool.queue }}
    valueLocation: jobs
    targetValue: {{ $slots | quote }}
    authMode: bearer
  authenticationRef:
    name: {{ include "quantmill.fullname" .root }}-autoscaling
{{- end -}}
{{- end -}}
