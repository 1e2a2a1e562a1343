{{/*
These templates read the kustomization.yaml files of k8s/base, k8s/overlays/receive and k8s/overlays/monitoring, which are
links in the chart. They know the parts of kustomize that those use: resources, labels, configMapGenerator. A test compares
the results.
*/}}

{{/* Prints the objects of a folder, and of the folders that it names. `labels` has those of outer folders. */}}
{{- define "stormfold.folder" -}}
{{- $kustomization := .root.Files.Get (printf "%s/kustomization.yaml" .folder) | fromYaml -}}
{{- $scope := dict "root" .root "folder" .folder "labels" (concat ($kustomization.labels | default list) .labels) -}}
{{- range $name := $kustomization.resources -}}
{{- $path := printf "%s/%s" $scope.folder $name | clean -}}
{{- if not (hasSuffix ".yaml" $name) -}}
{{- include "stormfold.folder" (dict "root" $scope.root "folder" $path "labels" $scope.labels) -}}
{{- else -}}
{{- range $text := regexSplit "(?m)^---$" ($scope.root.Files.Get $path) -1 -}}
{{- include "stormfold.object" (merge (dict "object" (fromYaml $text)) $scope) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $generator := $kustomization.configMapGenerator -}}
{{- include "stormfold.generated" (merge (dict "generator" $generator) $scope) -}}
{{- end -}}
{{- end -}}

{{/* Prints a ConfigMap of a generator, unless it is only for kustomize. */}}
{{- define "stormfold.generated" -}}
{{- $scope := . -}}
{{- $options := .generator.options | default dict -}}
{{- if not (dig "annotations" "config.kubernetes.io/local-config" "" $options) -}}
{{- $data := dict -}}
{{- range .generator.files -}}
{{- $_ := set $data (base .) ($scope.root.Files.Get (printf "%s/%s" $scope.folder .)) -}}
{{- end -}}
{{- range .generator.envs -}}
{{- range $line := splitList "\n" ($scope.root.Files.Get (printf "%s/%s" $scope.folder .)) -}}
{{- if regexMatch "^[A-Z]" $line -}}
{{- $_ := set $data (regexFind "^[^=]+" $line) (regexReplaceAll "^[^=]+=" $line "") -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $metadata := dict "name" .generator.name "labels" (dig "labels" dict $options) -}}
{{- $object := dict "apiVersion" "v1" "kind" "ConfigMap" "metadata" $metadata "data" $data -}}
{{- include "stormfold.object" (merge (dict "object" $object) $scope) -}}
{{- end -}}
{{- end -}}

{{/* Adds labels to an object and, where the kustomization asks for it, to its selectors and pods. */}}
{{- define "stormfold.label" -}}
{{- $object := .object -}}
{{- $labels := $object.metadata.labels | default dict -}}
{{- range $entry := .labels -}}
{{- $labels = merge dict $entry.pairs $labels -}}
{{- if $entry.includeSelectors -}}
{{- if eq $object.kind "Deployment" -}}
{{- $template := $object.spec.template -}}
{{- $selector := merge dict $entry.pairs (dig "selector" "matchLabels" dict $object.spec) -}}
{{- $_ := set $object.spec "selector" (dict "matchLabels" $selector) -}}
{{- $metadata := $template.metadata | default dict -}}
{{- $_ := set $template "metadata" (set $metadata "labels" (merge dict $entry.pairs (dig "labels" dict $metadata))) -}}
{{- range $template.spec.topologySpreadConstraints -}}
{{- $_ := set .labelSelector "matchLabels" (merge dict $entry.pairs .labelSelector.matchLabels) -}}
{{- end -}}
{{- else if eq $object.kind "PodDisruptionBudget" -}}
{{- $_ := set $object.spec.selector "matchLabels" (merge dict $entry.pairs $object.spec.selector.matchLabels) -}}
{{- else if eq $object.kind "NetworkPolicy" -}}
{{- $_ := set $object.spec.podSelector "matchLabels" (merge dict $entry.pairs $object.spec.podSelector.matchLabels) -}}
{{- else if eq $object.kind "Service" -}}
{{- $_ := set $object.spec "selector" (merge dict $entry.pairs $object.spec.selector) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set $object.metadata "labels" $labels -}}
{{- end -}}
