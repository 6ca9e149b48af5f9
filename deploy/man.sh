#!/bin/sh
# man.sh NAME SECTION SUMMARY PROGRAM: a man page, as roff, of what `PROGRAM --help` says.
set -eu
printf '.TH "%s" %s "" "maroon" "maroon"\n.SH NAME\n%s \\- %s\n.SH USAGE\n.nf\n' "$1" "$2" "$(printf %s "$1" | sed 's/-/\\-/g')" "$3"
"$4" --help | sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\\&&/"
printf '.fi\n.SH SEE ALSO\nmaroon\\-node(8)\n'
