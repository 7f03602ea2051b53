#!/bin/sh
# Unpacks Debian's promtool below .cache/prometheus; nothing is installed.
set -eu

cd "$(dirname "$0")/../.."
mkdir -p .cache/prometheus
cd .cache/prometheus
test -x usr/bin/promtool && exit 0
apt-get download prometheus
dpkg --extract prometheus_*.deb .
rm prometheus_*.deb usr/bin/prometheus
usr/bin/promtool --version
