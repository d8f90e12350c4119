{{/* What files/rbac.yaml says of the runbooks that are switched on. That file is written by `manage.py rbac --write`. */}}

{{/* Their names, as BYTEPORT_RUNBOOKS has them. A switch that is not there (values of an older release) is off. */}}
{{- define "byteport.runbooks" -}}
{{- $names := keys .Values.extraRunbooks }}
{{- range $name, $runbook := (.Files.Get "files/rbac.yaml" | fromYaml).runbooks }}
{{- if dig $runbook.switch "enabled" false $.Values.runbooks }}
{{- $names = append $names $name }}
{{- end }}
{{- end }}
{{- $names | sortAlpha | join "," | default "none" }}
{{- end }}

{{/* What the sources read. */}}
{{- define "byteport.watchRules" -}}
{{- $needs := list }}
{{- range (.Files.Get "files/rbac.yaml" | fromYaml).sources }}
{{- $needs = concat $needs . }}
{{- end }}
{{- include "byteport.rules" $needs }}
{{- end }}

{{/* What the runbooks read, and what their actions need. */}}
{{- define "byteport.workerRules" -}}
{{- $needs := list }}
{{- range (.Files.Get "files/rbac.yaml" | fromYaml).runbooks }}
{{- if dig .switch "enabled" false $.Values.runbooks }}
{{- $needs = concat $needs .permissions }}
{{- end }}
{{- end }}
{{- include "byteport.rules" $needs }}
{{- range .Values.extraRunbooks }}
{{- with .rules }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The union of a list of {group, resource, verbs}: one rule a resource, each verb once. */}}
{{- define "byteport.rules" -}}
{{- $verbs := dict }}
{{- range . }}
{{- $key := printf "%s|%s" .group .resource }}
{{- $_ := set $verbs $key (concat (get $verbs $key | default list) .verbs | uniq | sortAlpha) }}
{{- end }}
{{- range $key, $list := $verbs }}
{{- $at := splitn "|" 2 $key }}
- apiGroups: [{{ $at._0 | quote }}]
  resources: [{{ $at._1 | quote }}]
  verbs: [{{ $list | join ", " }}]
{{- end }}
{{- end }}
