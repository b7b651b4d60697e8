#!/bin/sh
# Stands in for reloader where the rig itself is tested: reloader --config DIR/reloader.toml COMMAND.
dir=$(dirname "$2")
case "$3" in
daemon)
    mkdir -p "$dir/run"
    echo "passed ${LISTEN_FDS:-0} as ${LISTEN_FDNAMES:-none} to $([ "$LISTEN_PID" = $$ ] && echo me || echo nobody)"
    if [ ! -e "$dir/run/pid" ]; then
        haproxy -D -f "$dir/haproxy.cfg" -p "$dir/run/pid"
    fi
    pid=$(cat "$dir/run/pid")
    start=$(sed 's/.*) //' "/proc/$pid/stat" | cut -d ' ' -f 20)
    echo "{\"generations\":[{\"pid\":$pid,\"start-time\":$start}]}" >"$dir/run/generations.json"
    exec python3 -c '
import array, os, signal, socket
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
fd = array.array("i", [os.open("/dev/null", os.O_RDONLY)])
notify.sendmsg([b"FDSTORE=1\nFDNAME=null"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd)])
notify.send(b"READY=1\nSTATUS=serving")
signal.pause()'
    ;;
status) echo "{\"serving\":{\"pid\":$(cat "$dir/run/pid")}}" ;;
stop) exit 0 ;;
*) echo "no such command" >&2; exit 2 ;;
esac
