{{/* Names, labels, and what all pods share. Each takes a dict: `root` is the chart's own scope. */}}

{{- define "byteport.name" -}}
{{- default "byteport" .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Kubernetes takes 63 characters for most names; the longest suffix here has 13. */}}
{{- define "byteport.fullname" -}}
{{- $name := include "byteport.name" . }}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $whole .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Of objects that belong to the cluster: two releases of one name, in two namespaces, must not share them. */}}
{{- define "byteport.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "byteport.fullname" .) }}
{{- end }}

{{- define "byteport.selector" -}}
app.kubernetes.io/name: {{ include "byteport.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "byteport.labels" -}}
{{ include "byteport.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "byteport.image" -}}
{{- $repository := required "Set image.repository to where the image of BytePort's Dockerfile was pushed to." .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "byteport.databaseSecret" -}}
{{- required "Set database.existingSecret to a Secret of this namespace that holds the URL of a PostgreSQL under DATABASE_URL." .Values.database.existingSecret }}
{{- end }}

{{- define "byteport.keySecret" -}}
{{- default (printf "%s-key" (include "byteport.fullname" .)) .Values.secretKey.existingSecret }}
{{- end }}

{{- define "byteport.publicUrl" -}}
{{- $ingress := printf "https://%s" .Values.ingress.host }}
{{- default (ternary $ingress "http://127.0.0.1:8000" .Values.ingress.enabled) .Values.publicUrl | trimSuffix "/" }}
{{- end }}

{{- define "byteport.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "byteport.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where a pod runs and what it is made from. */}}
{{- define "byteport.placement" -}}
enableServiceLinks: false
securityContext:
  {{- include "byteport.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Replicas keep to different nodes and zones where they can. */}}
{{- define "byteport.spread" -}}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "byteport.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}

{{- define "byteport.podMeta" -}}
labels:
  {{- include "byteport.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/env: {{ include "byteport.env" .root | sha256sum }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/*
The container's common part: image, rights, settings, secrets as files, a folder to write to. The setup runs before
anything else of the release is there: its settings stand in it, and it has a key of its own, with which nothing is signed.
*/}}
{{- define "byteport.container" -}}
image: {{ include "byteport.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "byteport.containerSecurity" . | nindent 2 }}
{{- $own := list (dict "configMapRef" (dict "name" (printf "%s-env" (include "byteport.fullname" .root)))) }}
{{- with concat (ternary (list) $own (eq .component "setup")) .root.Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  - {name: HOME, value: /tmp}
  - {name: DATABASE_URL_FILE, value: /run/secrets/byteport/DATABASE_URL}
  {{- if eq .component "setup" }}
  - {name: BYTEPORT_SECRET_KEY, value: only-for-the-setup-in-which-nothing-is-signed}
  {{- range $name, $value := include "byteport.env" .root | fromYaml }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
  {{- else }}
  - {name: BYTEPORT_SECRET_KEY_FILE, value: /run/secrets/byteport/BYTEPORT_SECRET_KEY}
  - {name: BYTEPORT_PULSE_DIR, value: /tmp}
  - {name: BYTEPORT_ROLE, value: {{ .component }}}
  {{- end }}
  {{- range $name, $_ := .root.Values.secrets }}
  - {name: {{ $name }}_FILE, value: /run/secrets/byteport/{{ $name }}}
  {{- end }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: secrets, mountPath: /run/secrets/byteport, readOnly: true}
resources:
  {{- toYaml (index .root.Values .component).resources | nindent 2 }}
{{- end }}

{{- define "byteport.volumes" -}}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        - secret:
            name: {{ include "byteport.databaseSecret" .root }}
            items: [{key: {{ .root.Values.database.key | quote }}, path: DATABASE_URL}]
        {{- if ne .component "setup" }}
        - secret:
            name: {{ include "byteport.keySecret" .root }}
            items: [{key: {{ .root.Values.secretKey.key | quote }}, path: BYTEPORT_SECRET_KEY}]
        {{- end }}
        {{- range $name, $from := .root.Values.secrets }}
        - secret:
            name: {{ $from.secret }}
            items: [{key: {{ $from.key | quote }}, path: {{ $name }}}]
        {{- end }}
{{- end }}

{{/* A worker or watcher answers no HTTP: its signs of life are files (byteport/pulse.py), looked at without Django. */}}
{{- define "byteport.pulseProbes" -}}
startupProbe:
  exec: {command: [python, -I, -S, byteport/pulse.py, {{ .component }}, alive]}
  periodSeconds: 3
  timeoutSeconds: 5
  failureThreshold: 40
livenessProbe:
  exec: {command: [python, -I, -S, byteport/pulse.py, {{ .component }}, alive]}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 3
readinessProbe:
  exec: {command: [python, -I, -S, byteport/pulse.py, {{ .component }}, ready]}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 2
{{- end }}
