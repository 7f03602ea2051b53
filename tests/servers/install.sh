#!/bin/sh
# Makes sure that PostgreSQL's and Redis' server programs are on this machine. The tests start their own servers from
# them; nothing is left running here, and a server that runs already is not touched. Chromium, in which the tests look at
# a report, is installed too where that can be done; without it they are skipped.
set -eu

postgresql_there() {
    command -v initdb >/dev/null && command -v postgres >/dev/null && return
    for program in /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$program" ] && [ -x "$(dirname "$program")/initdb" ] && return
    done
    return 1
}

redis_there() {
    command -v redis-server >/dev/null
}

missing() {
    redis_there || printf ' redis-server'
    postgresql_there || printf ' postgresql'
}

browser_there() {
    for program in chromium chromium-browser google-chrome; do
        command -v "$program" >/dev/null && return
    done
    return 1
}

packages=$(missing)
[ -z "$packages" ] && browser_there && exit 0

give_up() {
    if [ -z "$packages" ]; then
        echo "No Chromium (Debian: apt-get install chromium): tests that look at a report in a browser are skipped." >&2
        exit 0
    fi
    echo "The tests need real servers, and these are missing:$packages" >&2
    echo "$1" >&2
    exit 1
}

command -v apt-get >/dev/null ||
    give_up "Install them with this system's package manager, so that initdb, postgres and redis-server are on the PATH."

as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "Run as root: apt-get install$packages"
    as_root=sudo
fi

# Debian's packages start what they install, and PostgreSQL's makes a cluster. Both are held back.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi

install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$@"
}

$as_root apt-get update --quiet || give_up "apt-get update failed; see above."
if [ -z "$packages" ]; then
    install chromium || give_up "apt-get install chromium failed; see above."
    exit 0
fi
case $packages in
*postgresql*)
    install postgresql-common || give_up "apt-get install failed; see above."
    $as_root sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    ;;
esac
# shellcheck disable=SC2086  # one word for each package
install $packages || give_up "apt-get install failed; see above."
case $packages in
*redis-server*)
    ! command -v systemctl >/dev/null || $as_root systemctl disable --quiet redis-server
    ;;
esac

packages=$(missing)
[ -z "$packages" ] || give_up "apt-get installed them, but their programs cannot be found."
browser_there || install chromium || give_up "apt-get install chromium failed; see above."
