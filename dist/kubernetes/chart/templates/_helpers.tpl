{{/* The CNI plugin's image; older charts of flannel call the value image_cni. */}}
{{- define "twill.cniImage" -}}
{{- $image := .Values.flannel.image_cni | default .Values.flannel.flannel_cni.image -}}
{{ $image.repository }}:{{ $image.tag }}
{{- end }}

{{/* Refuses what flannel's chart can do and twill cannot. */}}
{{- define "twill.check" -}}
{{- if ne .Values.flannel.backend "udp" }}
{{- fail (printf "flannel.backend is %q: twill serves \"udp\" only" .Values.flannel.backend) }}
{{- end }}
{{- if hasSuffix "flannel-io/flannel" .Values.flannel.image.repository }}
{{- fail (printf "flannel.image is flannel's own, %q: set flannel.image.repository and flannel.image.tag to those of twill" .Values.flannel.image.repository) }}
{{- end }}
{{- if not (or .Values.podCidr .Values.podCidrv6) }}
{{- fail "podCidr and podCidrv6 are empty: set them to the cluster's --cluster-cidr" }}
{{- end }}
{{- if not (regexMatch " --?kube-subnet-mgr(=true)? " (printf " %s " (join " " .Values.flannel.args))) }}
{{- fail "flannel.args has no -kube-subnet-mgr: without it twill looks for leases in etcd" }}
{{- end }}
{{- if (.Values.netpol | default dict).enabled }}
{{- fail "netpol.enabled is true: install kube-network-policies by its own manifests, this chart does not contain it" }}
{{- end }}
{{- end }}
