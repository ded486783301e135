# The first process of a systemd-box (tests/systemd_box.py): builds a view of the machine's files that keeps
# its changes to itself, and becomes systemd in it. Runs in fresh namespaces, as root.
#   $1: an empty folder; $2: the console's file; the others: folders to show read-only at their own place
set -euo pipefail
folder=$1 console=$2
shift 2

mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder"/{upper,work,root,shared}
root=$folder/root
# Held before /tmp and the like are covered.
number=0
for path; do
    number=$((number + 1))
    mkdir "$folder/shared/$number"
    mount --bind "$path" "$folder/shared/$number"
    mount -o remount,bind,ro "$folder/shared/$number"
done

mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root"/dev/{pts,shm}
for name in null zero full random urandom tty; do
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
touch "$root/dev/console"
mount --bind "$console" "$root/dev/console"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"

# Nothing that the machine keeps here is started or seen.
mount -t tmpfs -o mode=755 tmpfs "$root/run"
for path in tmp var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "$root/$path"; done
for path in etc/systemd/system etc/sysusers.d etc/tmpfiles.d; do
    mkdir -p "$root/$path"
    mount -t tmpfs -o mode=755 tmpfs "$root/$path"
done
rm -rf "$root"/lib/systemd/system/*.target.wants
cat >"$root/etc/systemd/system/default.target" <<END
[Unit]
Description=A box for tests
Wants=systemd-journald.service multi-user.target
END

number=0
for path; do
    number=$((number + 1))
    mkdir -p "$root$path"
    parent=$path
    while [[ $parent != / ]]; do
        parent=$(dirname "$parent")
        # Services' users get there, wherever the code was checked out; a folder shown already is as it is.
        if [[ -w $root$parent ]]; then chmod a+x "$root$parent"; fi
    done
    mount --move "$folder/shared/$number" "$root$path"
done

cd "$root"
mkdir -p oldroot
pivot_root . oldroot
cd /
umount -l /oldroot
exec env -i container=box \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/etc/systemd/system:/lib/systemd/system \
    SYSTEMD_GENERATOR_PATH=/nonexistent SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nonexistent \
    /lib/systemd/systemd --system --unit=default.target --log-target=journal --show-status=no
