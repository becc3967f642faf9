#!/usr/bin/env bash
# A browser for the tests of `recipe review`: takes the Chromium or Chrome that is there, else installs Debian's.
# Never fails: where no browser can be had, it says how to get one, and those tests are skipped with that reason.
set -uo pipefail
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  command -v "$name" >/dev/null && exit 0
done
say() { echo "browser: $* The tests of the review page are skipped until a chromium or google-chrome is on the PATH." >&2; }
command -v apt-get >/dev/null || { say "no Chromium, and no apt-get to install one with."; exit 0; }
as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
  command -v sudo >/dev/null && sudo -n true 2>/dev/null || {
    say "no Chromium, and no right to install it; as root: apt-get install chromium fonts-dejavu-core."
    exit 0
  }
fi
echo "browser: installing chromium (about 120 MB to fetch)"
install() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" >/tmp/browser-install.$$ 2>&1; }
if ! { install -q update; install -q -y --no-install-recommends install chromium fonts-dejavu-core; }; then
  tail -3 /tmp/browser-install.$$ >&2
  say "apt-get could not install chromium."
fi
rm -f /tmp/browser-install.$$
exit 0
