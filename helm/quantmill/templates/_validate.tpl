{{/* What the schema cannot say, because it looks at several keys. Each message names the keys and a remedy. */}}
{{- define "quantmill.validate" -}}
{{- range $path, $instead := include "quantmill.removed" . | fromYaml -}}
{{- include "quantmill.refuseRemoved" (dict "values" $.Values.AsMap "path" (splitList "." $path) "shown" list "instead" $instead) -}}
{{- end -}}
{{- include "quantmill.guardNet" . -}}
{{- include "quantmill.validateStores" . -}}
{{- include "quantmill.validateBundled" . -}}
{{- include "quantmill.validateTimes" . -}}
{{- include "quantmill.validateNetwork" . -}}
{{- range $component := list "api" "scheduler" "migrations" -}}
{{- $sources := ne $component "scheduler" | and (ne $component "migrations") -}}
{{- include "quantmill.validateAdditions" (dict "root" $ "at" $component "values" (index $.Values $component) "sources" $sources) -}}
{{- end -}}
{{- range $name, $pool := include "quantmill.pools" . | fromYaml -}}
{{- $at := printf "workers.pools.%s" $name -}}
{{- include "quantmill.validateAdditions" (dict "root" $ "at" $at "values" $pool "sources" true) -}}
{{- include "quantmill.validatePool" (dict "root" $ "at" $at "pool" $pool) -}}
{{- include "quantmill.validateGpu" (dict "at" $at "pool" $pool) -}}
{{- include "quantmill.validateKeda" (dict "root" $ "at" $at "pool" $pool) -}}
{{- end -}}
{{- include "quantmill.validateQueues" . -}}
{{- end -}}

{{- define "quantmill.validateStores" -}}
{{- range $store := list "database" "broker" -}}
{{- $external := (index $.Values $store).external -}}
{{- if and $external.url $external.existingSecret -}}
{{- fail (printf "%s.external.url and %s.external.existingSecret are both set; keep one of them" $store $store) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.migrations.mode "none") .Values.migrations.annotations -}}
{{- fail "migrations.annotations are of a Job, and migrations.mode none makes none; choose mode job or hook, or remove them" -}}
{{- end -}}
{{- end -}}

{{/* Times that must fit into each other. */}}
{{- define "quantmill.validateTimes" -}}
{{- $lease := .Values.config.lease_seconds | default 60 | float64 -}}
{{- $beat := .Values.config.heartbeat_seconds | default 10 | float64 -}}
{{- if lt $lease (mulf 2.0 $beat) -}}
{{- fail (printf "config.lease_seconds (%v) must be twice config.heartbeat_seconds (%v) at least: one renewal that comes late would take a living worker's job away" $lease $beat) -}}
{{- end -}}
{{- if gt $beat 60.0 -}}
{{- fail (printf "config.heartbeat_seconds is %v, and the probes of workers restart a pod that was silent for 120 seconds; 60 at most" $beat) -}}
{{- end -}}
{{- if gt (.Values.config.scheduler_seconds | default 1 | float64) 60.0 -}}
{{- fail "config.scheduler_seconds is over 60, and the probes of the scheduler restart a pod that was silent for 120 seconds; 60 at most" -}}
{{- end -}}
{{- if le (int64 .Values.api.terminationGracePeriodSeconds) (add (int64 .Values.api.preStopSeconds) 5) -}}
{{- fail (printf "api.terminationGracePeriodSeconds (%d) must be more than api.preStopSeconds (%d) and the 5 seconds that open requests get" (int64 .Values.api.terminationGracePeriodSeconds) (int64 .Values.api.preStopSeconds)) -}}
{{- end -}}
{{- end -}}

{{- define "quantmill.validateNetwork" -}}
{{- if and .Values.trustedCA.configMap .Values.trustedCA.secret -}}
{{- fail "trustedCA.configMap and trustedCA.secret are both set; keep one of them" -}}
{{- end -}}
{{- if and .Values.offline.enabled .Values.offline.hubEndpoint -}}
{{- fail "offline.enabled forbids the network that offline.hubEndpoint needs; keep one of them" -}}
{{- end -}}
{{- end -}}

{{/* (dict "root" $ "at" path "values" the component's "sources" whether they are mounted): what is added to pods must not
     stand in the way of what is there. */}}
{{- define "quantmill.validateAdditions" -}}
{{- $root := .root -}}
{{- $at := .at -}}
{{- $own := include "quantmill.ownVolumes" (dict "root" $root "data" "" "sources" .sources "values" .values) | fromYaml -}}
{{- $added := include "quantmill.byName" (list $root.Values.extraVolumes .values.extraVolumes) | fromYaml -}}
{{- range $name, $_ := $added -}}
{{- if hasKey $own $name -}}
{{- fail (printf "%s.extraVolumes.%s: pods have a volume of that name; choose another (extraVolumes of the release count, too)" $at $name) -}}
{{- end -}}
{{- end -}}
{{- $taken := dict "/cache" true "/tmp" true (include "quantmill.dataDir" $root) true (include "quantmill.trustedDir" $root) true "/dev/shm" true -}}
{{- if .sources -}}
{{- range $name, $source := $root.Values.sources -}}
{{- if hasKey $taken $source.mountPath -}}
{{- fail (printf "sources.%s.mountPath: something else is mounted at %s; choose another path" $name $source.mountPath) -}}
{{- end -}}
{{- $_ := set $taken $source.mountPath true -}}
{{- end -}}
{{- end -}}
{{- $mounts := include "quantmill.byName" (list $root.Values.extraVolumeMounts .values.extraVolumeMounts) | fromYaml -}}
{{- range $path, $mount := $mounts -}}
{{- if hasKey $taken $path -}}
{{- fail (printf "%s.extraVolumeMounts: something else is mounted at %s; choose another path" $at $path) -}}
{{- end -}}
{{- end -}}
{{- $containers := include "quantmill.byName" (list $root.Values.extraInitContainers .values.extraInitContainers $root.Values.extraContainers .values.extraContainers) | fromYaml -}}
{{- range $name, $container := $containers -}}
{{- if has $name (list "api" "scheduler" "worker" "migrate" "wait-schema") -}}
{{- fail (printf "%s: a container of ours is called %s; choose another name for the extra one" $at $name) -}}
{{- end -}}
{{- $mounts = include "quantmill.byName" (list $mounts $container.volumeMounts) | fromYaml -}}
{{- end -}}
{{- range $name, $_ := include "quantmill.byName" (list $root.Values.extraInitContainers .values.extraInitContainers) | fromYaml -}}
{{- if hasKey (include "quantmill.byName" (list $root.Values.extraContainers $.values.extraContainers) | fromYaml) $name -}}
{{- fail (printf "%s: extraInitContainers and extraContainers both have %s; names of a pod's containers differ" $at $name) -}}
{{- end -}}
{{- end -}}
{{- range $path, $mount := $mounts -}}
{{- if not (or (hasKey $own $mount.name) (hasKey $added $mount.name)) -}}
{{- fail (printf "%s: at %s the volume %s is mounted, which extraVolumes does not have; add it there" $at $path $mount.name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := include "quantmill.byName" (list $root.Values.extraEnv .values.extraEnv) | fromYaml -}}
{{- if and (hasPrefix "QUANTMILL_" $name) (ne $name "QUANTMILL_ISA") -}}
{{- fail (printf "%s.extraEnv.%s: settings are not set by extraEnv; use config.%s, or the value that the chart has for it" $at $name ($name | trimPrefix "QUANTMILL_" | lower)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "quantmill.validatePool" -}}
{{- $pool := .pool -}}
{{- if and (gt (int64 $pool.slots) 1) (eq (int64 $pool.threads) 0) -}}
{{- fail (printf "%s: with slots %d, threads must be set; 0 would give the pod's whole CPU limit to each job" .at (int64 $pool.slots)) -}}
{{- end -}}
{{- if and (eq (int64 $pool.threads) 0) (not (dig "limits" "cpu" "" $pool.resources)) -}}
{{- fail (printf "%s: threads is 0, which takes the pod's CPU limit, but resources.limits.cpu is not set; set one of them" .at) -}}
{{- end -}}
{{- if lt (int64 $pool.terminationGracePeriodSeconds) 45 -}}
{{- fail (printf "%s: terminationGracePeriodSeconds (%d) is less than the 30 seconds in which a stopping worker hands its job back and 15 to spare; 45 at least" .at (int64 $pool.terminationGracePeriodSeconds)) -}}
{{- end -}}
{{- range $key := list "scratch" "modelCache" -}}
{{- $volume := index $pool $key -}}
{{- if and (eq $volume.type "existingClaim") (not $volume.existingClaim) -}}
{{- fail (printf "%s.%s: type existingClaim needs the claim's name in existingClaim" $.at $key) -}}
{{- end -}}
{{- if and (ne $volume.type "existingClaim") $volume.existingClaim -}}
{{- fail (printf "%s.%s: existingClaim is set, but type is %s; choose type existingClaim" $.at $key $volume.type) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "quantmill.validateGpu" -}}
{{- $pool := .pool -}}
{{- $gpu := $pool.gpu -}}
{{- if $gpu.enabled -}}
{{- if and (eq (int64 $gpu.count) 0) (not $pool.resourceClaims) -}}
{{- fail (printf "%s.gpu: enabled with count 0 and no resourceClaims gives no GPU; set count" .at) -}}
{{- end -}}
{{- if and (eq $gpu.mig.strategy "mixed") (not $gpu.mig.profile) -}}
{{- fail (printf "%s.gpu.mig: strategy mixed needs a profile, which names the resource" .at) -}}
{{- end -}}
{{- if and (ne $gpu.mig.strategy "mixed") $gpu.mig.profile -}}
{{- fail (printf "%s.gpu.mig: profile counts with strategy mixed alone; with single, name the product in gpu.products" .at) -}}
{{- end -}}
{{- if eq (dig "device" "" $pool.config) "cpu" -}}
{{- fail (printf "%s: gpu.enabled, but config.device is cpu; remove one of them" .at) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "quantmill.validateKeda" -}}
{{- $pool := .pool -}}
{{- $keda := $pool.keda -}}
{{- if and (eq $pool.kind "ScaledJob") (not $keda.enabled) -}}
{{- fail (printf "%s: kind ScaledJob is started by KEDA; set keda.enabled" .at) -}}
{{- end -}}
{{- if and (eq $pool.kind "ScaledJob") (ne (int64 $pool.slots) 1) -}}
{{- fail (printf "%s: a pod of kind ScaledJob runs one job; slots must be 1" .at) -}}
{{- end -}}
{{- if $keda.enabled -}}
{{- if not $pool.queue -}}
{{- fail (printf "%s: keda.enabled needs queue: the load of a queue without a name cannot be asked for" .at) -}}
{{- end -}}
{{- if gt (int64 $keda.minReplicas) (int64 $keda.maxReplicas) -}}
{{- fail (printf "%s.keda: minReplicas (%d) is more than maxReplicas (%d)" .at (int64 $keda.minReplicas) (int64 $keda.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $keda.trigger "api") (not .root.Values.api.autoscalingToken.existingSecret) -}}
{{- fail (printf "%s.keda: trigger api needs api.autoscalingToken.existingSecret, the token that KEDA shows" .at) -}}
{{- end -}}
{{- if and (eq $keda.trigger "prometheus") (not $keda.prometheusAddress) -}}
{{- fail (printf "%s.keda: trigger prometheus needs prometheusAddress" .at) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Workers of one queue can run the same jobs, so they are of one image; and KEDA must not scale two pools by one load. */}}
{{- define "quantmill.validateQueues" -}}
{{- $seen := dict -}}
{{- range $name, $pool := include "quantmill.pools" . | fromYaml -}}
{{- if $pool.queue -}}
{{- $image := include "quantmill.image" (dict "root" $ "override" $pool.image) -}}
{{- with index $seen $pool.queue -}}
{{- if ne .image $image -}}
{{- fail (printf "workers.pools.%s and workers.pools.%s serve queue %q with different images (%s, %s); give each its own queue" .name $name $pool.queue .image $image) -}}
{{- end -}}
{{- if or .keda $pool.keda.enabled -}}
{{- fail (printf "workers.pools.%s and workers.pools.%s serve queue %q, and KEDA would start workers in both for the same jobs; give each its own queue" .name $name $pool.queue) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $seen $pool.queue (dict "name" $name "image" $image "keda" $pool.keda.enabled) -}}
{{- end -}}
{{- end -}}
{{- end -}}
