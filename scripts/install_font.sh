#!/bin/sh
# Install the colour emoji font with apt where this user may; never fails, tests say themselves what they lack.
if [ "$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo -n"; else
    echo "not allowed to install fonts-noto-color-emoji: tests that need it are skipped"
    exit 0
fi
$run apt-get update -qq && $run apt-get install -y -qq fonts-noto-color-emoji fontconfig >/dev/null || echo "fonts-noto-color-emoji could not be installed"
exit 0
