{{/* What contradicts itself in the values of network, monitoring and secrets. Each message names the keys. */}}

{{/* Refuses an object whose kind the cluster does not have: (dict "root" $ "value" key "api" group/version "provider" name).
     Only a real cluster serves apiregistration.k8s.io; `helm template` knows no cluster and refuses nothing. */}}
{{- define "quantmill.requireApi" -}}
{{- $served := .root.Capabilities.APIVersions -}}
{{- if and ($served.Has "apiregistration.k8s.io/v1") (not ($served.Has .api)) -}}
{{- fail (printf "%s is true, but the cluster does not serve %s; install %s first, or set %s to false" .value .api .provider .value) -}}
{{- end -}}
{{- end -}}

{{- define "quantmill.guardNet" -}}
{{- $values := .Values -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is empty; name the Gateway that the route is to be attached to" -}}
{{- end -}}
{{- if and $values.ingress.enabled $values.httpRoute.enabled -}}
{{- range $values.httpRoute.hostnames -}}
{{- if has . $values.ingress.hosts -}}
{{- fail (printf "%s stands in ingress.hosts and in httpRoute.hostnames; keep it in one of them" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.route.enabled (not $values.route.host) (gt (len $values.api.publicPaths) 1) -}}
{{- fail "route.host is empty, so OpenShift would give each path in api.publicPaths a host of its own; set route.host, or api.publicPaths to one path" -}}
{{- end -}}
{{- with $values.api.autoscaling -}}
{{- if .enabled -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "api.autoscaling.minReplicas is %d and maxReplicas %d; raise maxReplicas" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- if not (or .cpuUtilization .memoryUtilization) -}}
{{- fail "api.autoscaling looks at nothing; set cpuUtilization or memoryUtilization" -}}
{{- end -}}
{{- range $resource := list "cpu" "memory" -}}
{{- if and (index $values.api.autoscaling (printf "%sUtilization" $resource)) (not (dig "requests" $resource "" $values.api.resources)) -}}
{{- fail (printf "api.autoscaling.%sUtilization is a share of api.resources.requests.%s, which is not set; set it" $resource $resource) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $values.serviceAccount -}}
{{- if and .create .name -}}
{{- fail "serviceAccount.name is an account for all pods, and serviceAccount.create makes one for each component; set create to false, or name single accounts under api.serviceAccount, workers.defaults.serviceAccount ..." -}}
{{- end -}}
{{- end -}}
{{- with $values.externalSecret -}}
{{- if .enabled -}}
{{- if and .database.key (eq $values.migrations.mode "hook") -}}
{{- fail "migrations.mode hook runs before externalSecret.database can fill the Secret that it reads; choose another mode, or make that Secret beforehand" -}}
{{- end -}}
{{- if not .storeRef.name -}}
{{- fail "externalSecret.storeRef.name is empty; name the store that has the URLs" -}}
{{- end -}}
{{- if not (or .database.key .broker.key) -}}
{{- fail "externalSecret.enabled is true, but neither externalSecret.database.key nor externalSecret.broker.key is set; set what the store has" -}}
{{- end -}}
{{- range $store := list "database" "broker" -}}
{{- if and (index $values.externalSecret $store).key (index $values $store).external.url -}}
{{- fail (printf "externalSecret.%s.key and %s.external.url are both set; keep one of them" $store $store) -}}
{{- end -}}
{{- $bundled := include "quantmill.bundled" (dict "root" $ "store" $store) -}}
{{- if and (index $values.externalSecret $store).key $bundled -}}
{{- fail (printf "externalSecret.%s.key is set, but %s.enabled brings a store with a Secret of its own; keep one of them" $store $bundled) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
