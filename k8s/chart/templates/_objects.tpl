{{/* Prints an object with the changes that values make, or nothing. */}}
{{- define "stormfold.object" -}}
{{- $object := .object -}}
{{- $values := .root.Values -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $_ := include "stormfold.label" . -}}
{{- $kind := $object.kind -}}
{{- $shown := true -}}
{{- $namespaces := list $namespace -}}
{{- if eq $kind "Namespace" -}}
{{- $shown = false -}}
{{- else if eq $kind "CustomResourceDefinition" -}}
{{- $shown = $values.crds.enabled -}}
{{- if $values.crds.keep -}}
{{- $_ := set $object.metadata "annotations" (dict "helm.sh/resource-policy" "keep") -}}
{{- end -}}
{{- else if has $kind (list "Role" "RoleBinding") -}}
{{- $shown = $values.rbac.enabled -}}
{{- $namespaces = concat $namespaces $values.namespaces | uniq -}}
{{- range $object.subjects -}}
{{- $_ := set . "namespace" $namespace -}}
{{- end -}}
{{- else if eq $kind "ServiceAccount" -}}
{{- with $values.serviceAccount.annotations -}}
{{- $_ := set $object.metadata "annotations" . -}}
{{- end -}}
{{- else if eq $kind "PodDisruptionBudget" -}}
{{- $shown = $values.podDisruptionBudget.enabled -}}
{{- else if eq $kind "NetworkPolicy" -}}
{{- $shown = $values.networkPolicy.enabled -}}
{{- $own := eq $object.metadata.name "stormfold" | ternary $values.worker $values.receive -}}
{{- $_ := set $object.spec "ingress" (concat $object.spec.ingress $own.ingress) -}}
{{- $_ := set $object.spec "egress" (concat $object.spec.egress $values.networkPolicy.egress) -}}
{{- else if eq $kind "ConfigMap" -}}
{{- $_ := include "stormfold.config" . -}}
{{- else if eq $kind "Deployment" -}}
{{- $_ := include "stormfold.deployment" . -}}
{{- else if has $kind (list "PodMonitor" "PrometheusRule") -}}
{{- $_ := set $object.metadata "labels" (merge (dict) $values.monitoring.labels $object.metadata.labels) -}}
{{- end -}}
{{- if $shown -}}
{{- range $namespaces -}}
{{- if ne $kind "CustomResourceDefinition" -}}
{{- $_ := set $object.metadata "namespace" . -}}
{{- end }}
---
{{ $text := toYaml $object -}}
{{- if eq $kind "PrometheusRule" -}}
{{- $text = $text | replace "http://127.0.0.1:3000/" (printf "%s/" (trimSuffix "/" $values.monitoring.grafana)) -}}
{{- end -}}
{{- $text }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Changes the data of the ConfigMaps of the base. */}}
{{- define "stormfold.config" -}}
{{- $values := .root.Values -}}
{{- $data := .object.data -}}
{{- $namespace := .root.Release.Namespace -}}
{{- if eq .object.metadata.name "stormfold-environment" -}}
{{- include "stormfold.variables" (dict "data" $data "environment" $values.environment) -}}
{{- else if eq .object.metadata.name "stormfold-receive" -}}
{{- include "stormfold.variables" (dict "data" $data "environment" $values.receive.environment) -}}
{{- else if eq .object.metadata.name "stormfold" -}}
{{- $name := "stormfold.yaml" -}}
{{- if $values.configuration -}}
{{- $_ := set $data $name $values.configuration -}}
{{- $configuration := fromYaml $values.configuration -}}
{{- $allowed := concat (list $namespace) $values.namespaces -}}
{{- $expected := printf "which is neither that of the release (%s) nor in `namespaces`" $namespace -}}
{{- $publish := kindIs "invalid" $configuration.publish | ternary (list "Storm" "Incident") $configuration.publish -}}
{{- $incidents := $configuration.incidents -}}
{{- if and (or (kindIs "invalid" $incidents) (kindIs "map" $incidents)) (has "Incident" $publish) -}}
{{- $target := ($incidents | default dict).namespace | default "storms" -}}
{{- if not (has $target $allowed) -}}
{{- fail (printf "configuration: incidents are written to the namespace %s, %s" $target $expected) -}}
{{- end -}}
{{- end -}}
{{- if without $publish "Incident" -}}
{{- $routes := $configuration.routes -}}
{{- range $route := $routes -}}
{{- $target := $route.namespace | default "storms" -}}
{{- if not (has $target $allowed) -}}
{{- fail (printf "configuration: the route %s writes to the namespace %s, %s" $route.name $target $expected) -}}
{{- end -}}
{{- end -}}
{{- /* stormfold adds a route if the last one does not match every alert. */ -}}
{{- if and (or (not $routes) (last $routes).match) (not (has "storms" $allowed)) -}}
{{- fail (printf "configuration: alerts that no route matches are written to the namespace storms, %s; add a last route without `match` that has a `namespace`" $expected) -}}
{{- end -}}
{{- end -}}
{{- else if ne $namespace "storms" -}}
{{- $configuration := get $data $name | fromYaml -}}
{{- range $configuration.routes -}}
{{- $_ := set . "namespace" $namespace -}}
{{- end -}}
{{- $_ := set $configuration "incidents" (dict "namespace" $namespace) -}}
{{- $_ := set $data $name (toYaml $configuration) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Sets variables in the data of a ConfigMap. */}}
{{- define "stormfold.variables" -}}
{{- $data := .data -}}
{{- range $name, $value := .environment -}}
{{- $_ := set $data $name (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{- end -}}

{{/* Changes a Deployment and its pods. */}}
{{- define "stormfold.deployment" -}}
{{- $values := .root.Values -}}
{{- $object := .object -}}
{{- $own := get $values (get $object.metadata.labels "app.kubernetes.io/component") -}}
{{- $_ := unset $object.spec "replicas" -}}
{{- if not (kindIs "invalid" $own.replicas) -}}
{{- $_ := set $object.spec "replicas" (int $own.replicas) -}}
{{- end -}}
{{- $metadata := $object.spec.template.metadata -}}
{{- $_ := set $metadata "labels" (merge (dict) $metadata.labels $values.pod.labels) -}}
{{- $settings := list $own.environment $values.environment $values.configuration -}}
{{- range list "base/common/environment.env" "base/common/stormfold.yaml" "overlays/receive/environment.env" -}}
{{- $settings = append $settings ($.root.Files.Get .) -}}
{{- end -}}
{{- $checksum := dict "checksum/configuration" (toJson $settings | sha256sum) -}}
{{- $_ := set $metadata "annotations" (merge (dict) $checksum $values.pod.annotations) -}}
{{- $pod := $object.spec.template.spec -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" -}}
{{- with get $values.pod $key -}}
{{- $_ := set $pod $key . -}}
{{- end -}}
{{- end -}}
{{- if $values.image.pullSecrets -}}
{{- $secrets := list -}}
{{- range $values.image.pullSecrets -}}
{{- $secrets = append $secrets (dict "name" .) -}}
{{- end -}}
{{- $_ := set $pod "imagePullSecrets" $secrets -}}
{{- end -}}
{{- if $values.openshift -}}
{{- $_ := set $pod "securityContext" (omit $pod.securityContext "runAsUser" "runAsGroup" "fsGroup") -}}
{{- end -}}
{{- range $pod.volumes -}}
{{- if and .secret (eq .name "receive") -}}
{{- $_ := set .secret "secretName" $values.receive.secret -}}
{{- end -}}
{{- end -}}
{{- if $values.tls.secret -}}
{{- $volume := dict "name" "tls" "secret" (dict "secretName" $values.tls.secret) -}}
{{- $_ := set $pod "volumes" (append $pod.volumes $volume) -}}
{{- end -}}
{{- range $container := $pod.containers -}}
{{- $_ := set $container "image" (printf "%s:%s" $values.image.repository ($values.image.tag | default $.root.Chart.AppVersion)) -}}
{{- with $values.image.pullPolicy -}}
{{- $_ := set $container "imagePullPolicy" . -}}
{{- end -}}
{{- $_ := set $container "resources" $own.resources -}}
{{- range $source := $container.envFrom -}}
{{- with $source.secretRef -}}
{{- $_ := set $source "secretRef" (dict "name" $values.credentials.secret "optional" (not $values.credentials.required)) -}}
{{- end -}}
{{- end -}}
{{- if $own.https -}}
{{- range list $container.startupProbe $container.livenessProbe $container.readinessProbe -}}
{{- $_ := set .httpGet "scheme" "HTTPS" -}}
{{- end -}}
{{- end -}}
{{- if $values.tls.secret -}}
{{- $mount := dict "name" "tls" "mountPath" "/etc/stormfold-tls" "readOnly" true -}}
{{- $_ := set $container "volumeMounts" (append $container.volumeMounts $mount) -}}
{{- end -}}
{{- end -}}
{{- end -}}
