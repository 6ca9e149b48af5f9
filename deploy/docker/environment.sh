# Sourced from the top of the tree: the settings of .env, over which those of the environment go, as in docker-compose.
while IFS='=' read -r name value; do
    case $name in
    '' | \#*) continue ;;
    esac
    eval "set=\${$name+set}"
    [ -n "$set" ] || eval "$name=\$value"
    export "${name?}"
done <.env
DOCKER=${DOCKER:-docker}
