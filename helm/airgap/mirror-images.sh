#!/bin/sh
# Copies every image of a list into a registry of your own, each below its own path:
#
#     mirror-images.sh [--plain-http] [--dry-run] images.txt REGISTRY[/NAMESPACE]
#
# docker.io/library/redis:7 becomes REGISTRY/NAMESPACE/library/redis:7, where the chart looks for it with
# --set global.imageRegistry=REGISTRY/NAMESPACE. Needs skopeo; what it may read and write is
# said by `skopeo login`. Digests stay what they are: all platforms of an image are copied. --plain-http is for a
# REGISTRY without TLS; where images come from is always verified.
set -eu

usage() {
    echo "usage: $0 [--plain-http] [--dry-run] images.txt REGISTRY[/NAMESPACE]" >&2
    exit 2
}

tls=true
run=
while [ $# -gt 0 ]; do
    case $1 in
    --plain-http) tls=false ;;
    --dry-run) run=echo ;;
    -*) usage ;;
    *) break ;;
    esac
    shift
done
[ $# -eq 2 ] || usage
list=$1
target=${2%/}

while read -r image; do
    case $image in
    '' | '#'*) continue ;;
    */*) path=${image#*/} ;;
    *)
        echo "$image names no registry" >&2
        exit 1
        ;;
    esac
    $run skopeo copy --all --dest-tls-verify="$tls" "docker://$image" "docker://$target/$path"
done <"$list"
