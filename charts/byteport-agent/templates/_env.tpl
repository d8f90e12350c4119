{{/* The settings of all processes. What the chart decides goes before `env`, so that nothing there can undo it. */}}
{{- define "byteport.env" -}}
{{- $service := printf "%s-web" (include "byteport.fullname" .) }}
{{- $host := (urlParse (include "byteport.publicUrl" .)).hostname }}
{{- $hosts := list "localhost" "127.0.0.1" "[::1]" $host $service (printf "%s.%s" $service .Release.Namespace) (printf "%s.%s.svc" $service .Release.Namespace) (printf "%s.%s.svc.cluster.local" $service .Release.Namespace) }}
{{- $decided := dict
      "BYTEPORT_FORCE_DRY_RUN" (.Values.dryRun | toString)
      "BYTEPORT_RUNBOOKS" (include "byteport.runbooks" .)
      "BYTEPORT_LOCAL_HOST" "false"
      "BYTEPORT_CLUSTER_NAME" .Values.clusterName
      "BYTEPORT_PUBLIC_URL" (include "byteport.publicUrl" .)
      "BYTEPORT_ALLOWED_HOSTS" (concat $hosts .Values.allowedHosts | uniq | join ",")
      "BYTEPORT_BEHIND_PROXY" (or .Values.behindProxy .Values.ingress.enabled | toString)
      "BYTEPORT_WORKERS" (.Values.worker.processes | toString)
      "BYTEPORT_NAMESPACE" .Release.Namespace
}}
{{- if .Values.nodeAccess.enabled }}
{{- $_ := set $decided "BYTEPORT_NODE_IMAGE" (include "byteport.image" .) }}
{{- $pull := list }}
{{- range .Values.image.pullSecrets }}
{{- $pull = append $pull .name }}
{{- end }}
{{- $_ := set $decided "BYTEPORT_NODE_PULL_SECRETS" (join "," $pull) }}
{{- end }}
{{- range $name, $value := merge $decided .Values.env }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}
