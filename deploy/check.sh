#!/bin/sh
# Render every kustomization and validate what comes out against the Kubernetes API's schemas.
# Where promtool is installed it checks the Prometheus files, too.
set -eu
cd "$(dirname "$0")"

need() {
    command -v "$1" >/dev/null 2>&1 && return
    echo "error: $1 is not installed; $2" >&2
    exit 1
}
need kubectl "it renders deploy/kubernetes: see https://kubernetes.io/docs/tasks/tools/ (1.27 or newer)"
need kubernetes-validate "pip install -e '.[dev]'"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for path in kubernetes/base kubernetes/overlays/*/ kubernetes/build-job; do
    name=$(basename "$path")
    kubectl kustomize "$path" >"$folder/$name.yaml"
    kubernetes-validate --strict --quiet "$folder/$name.yaml"
    echo "deploy/${path%/}: $(grep -c '^kind: ' "$folder/$name.yaml") resources are valid"
done

if command -v promtool >/dev/null 2>&1; then
    promtool check config prometheus/prometheus.yml
fi
