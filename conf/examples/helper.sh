#!/bin/bash
# An example of a helper: helper.sh DIRECTORY keeps a file there for each connection.
set -o noglob
directory=$1
mkdir -p "$directory" || exit 1

LOAD() {
        answer=$directory/$connection
        echo "${about[identity]:-nobody} from ${about[remote_address]}" >"$answer"
}

RELEASE() {
        echo "$connection ended: ${about[cause]}" >&2 # to the journal
        # It may be asked twice, or for a load that did not finish: what is gone is no fault.
        rm -f "$directory/$connection"
}

# To its end, when tetherd has no use for us any more.
while read -r verb number connection words; do
        declare -A about=()
        for word in $words; do
                value=${word#*=}
                value=${value//\\/\\\\}
                printf -v "about[${word%%=*}]" %b "${value//%/\\x}"
        done
        answer=
        if "$verb"; then
                answer=${answer//%/%25}
                echo "OK $number ${answer// /%20}"
        else
                echo "FAIL $number $verb did not work"
        fi
done
