{{- define "kvcache.name" -}}
{{- if contains "kvcache" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-kvcache" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "kvcache.selector" -}}
app.kubernetes.io/name: kvcache
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kvcache.labels" -}}
{{ include "kvcache.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "kvcache.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}{{ else if .Values.serviceAccount.create }}{{ include "kvcache.name" . }}{{ else }}default{{ end }}
{{- end }}

{{- define "kvcache.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* ADDRESS[,replay=…][,pod=…][,model=…], several separated by commas */ -}}
{{- define "kvcache.endpoints" -}}
{{- $endpoints := list }}
{{- range .Values.engines }}
{{- $endpoint := .address }}
{{- if .replay }}{{ $endpoint = printf "%s,replay=%s" $endpoint .replay }}{{ end }}
{{- if .pod }}{{ $endpoint = printf "%s,pod=%s" $endpoint .pod }}{{ end }}
{{- if .model }}{{ $endpoint = printf "%s,model=%s" $endpoint .model }}{{ end }}
{{- $endpoints = append $endpoints $endpoint }}
{{- end }}
{{- join "," $endpoints }}
{{- end }}

{{- /* URL[,name=…][,key_file=…], several separated by commas */ -}}
{{- define "kvcache.pods" -}}
{{- $pods := list }}
{{- range .Values.pods }}
{{- $pod := .url }}
{{- if .name }}{{ $pod = printf "%s,name=%s" $pod .name }}{{ end }}
{{- if .key }}
{{- if not $.Values.engineKeys.secretName }}{{ fail (printf "pods: key %s needs engineKeys.secretName" .key) }}{{ end }}
{{- $pod = printf "%s,key_file=/etc/kvcache/engine-keys/%s" $pod .key }}
{{- end }}
{{- $pods = append $pods $pod }}
{{- end }}
{{- join "," $pods }}
{{- end }}

{{- /* Namespaces of sources kubernetes:NAMESPACE/SELECTOR that use the account of the service's own pod */ -}}
{{- define "kvcache.discoveredNamespaces" -}}
{{- $namespaces := list }}
{{- range .Values.discovery }}
{{- if and (hasPrefix "kubernetes:" .) (not (contains "kubeconfig=" .)) }}
{{- $namespaces = append $namespaces (trimPrefix "kubernetes:" . | splitList "/" | first) }}
{{- end }}
{{- end }}
{{- toYaml (uniq $namespaces) }}
{{- end }}

{{- define "kvcache.scheme" -}}
{{- if .Values.tls.secretName }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- /* Folders of /etc/kvcache and the Secrets in them. Whole folders, since files of a subPath never change. */ -}}
{{- define "kvcache.secrets" -}}
{{- if and .Values.tls.clientCaSecretName (not .Values.tls.secretName) }}{{ fail "tls.clientCaSecretName needs tls.secretName" }}{{ end }}
{{- $secrets := list }}
{{- with .Values.tls.secretName }}{{ $secrets = append $secrets (dict "name" "tls" "secret" .) }}{{ end }}
{{- with .Values.tls.clientCaSecretName }}{{ $secrets = append $secrets (dict "name" "client-ca" "secret" .) }}{{ end }}
{{- with .Values.apiKeys.secretName }}{{ $secrets = append $secrets (dict "name" "api-keys" "secret" .) }}{{ end }}
{{- with .Values.engineKeys.secretName }}{{ $secrets = append $secrets (dict "name" "engine-keys" "secret" .) }}{{ end }}
{{- with .Values.engineTls.caSecretName }}{{ $secrets = append $secrets (dict "name" "engine-ca" "secret" .) }}{{ end }}
{{- toYaml $secrets }}
{{- end }}
