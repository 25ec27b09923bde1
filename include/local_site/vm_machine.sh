#!/bin/sh
# Turns the new mount and process namespaces that this runs in into the training VM: its own home, /tmp and /run, and
# nothing of the machine's people and projects. Then becomes the SSH server.
#
# usage: vm_machine.sh STATE HOME TRAINING_ENV HIDDEN...
#   STATE         folder with sshd_config, host_key, authorized_keys, home/ and tmp/
#   HOME          where home/ appears
#   TRAINING_ENV  the virtual environment that appears, read-only, as HOME/training-env
#   HIDDEN        folders that must look empty
set -eu
# As the first process of its namespace it would not be ended by a signal that it does not handle.
trap 'exit 143' TERM INT

state=$1 home=$2 training_env=$3
shift 3

# Everything that is taken along is laid out in /mnt first, as its origin may be below a folder that gets hidden.
mount -t tmpfs -o mode=0755,size=1m tmpfs /mnt
mkdir /mnt/home /mnt/tmp /mnt/sshd
mount --bind "$state/home" /mnt/home
mount --bind "$state/tmp" /mnt/tmp
mount --bind "$training_env" /mnt/home/training-env
mount -o remount,bind,ro /mnt/home/training-env
cp "$state/sshd_config" "$state/host_key" "$state/authorized_keys" /mnt/sshd
chmod 0600 /mnt/sshd/host_key

for folder in /home /root /run /var/tmp /dev/shm; do
    mount -t tmpfs -o mode=0755 tmpfs "$folder"
done
chmod 1777 /var/tmp /dev/shm
mkdir -p "$home" /run/sshd /run/training-vm
mount --rbind /mnt/home "$home"
cp -p /mnt/sshd/* /run/training-vm
for folder in "$@"; do
    if [ -d "$folder" ]; then
        mount -t tmpfs -o ro,mode=0755,size=4k tmpfs "$folder"
    fi
done
mount --bind /mnt/tmp /tmp
umount -l /mnt

cd /
# -r: never read the program or its settings again for a connection; -D: stay in the foreground; -e: log to stderr.
exec /usr/sbin/sshd -r -D -e -f /run/training-vm/sshd_config
