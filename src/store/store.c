/* SPDX-License-Identifier: MIT */
/*
 * All goes by names relative to directories that are held open, or were opened for the
 * call without following links.
 *
 * Whoever makes a file holds its lock (flock(2)) from its first moment to its last, and
 * a lock goes with its process.  So what can be locked at the start is nobody's.  The
 * moment between making and locking: whoever was overtaken by a sweep there sees that
 * the name is no longer his file's and makes another.
 *
 * A snapshot comes about and goes with one step of one file, its archive.  The index
 * follows; between the two others find none, or one that is not the archive's, which
 * counts as none.
 */
#include "store/store.h"

#include "base/fd.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#define NEW_DIR ".new"
#define ARCHIVE_SUFFIX ".tar.zst"
#define INDEX_SUFFIX ".index"
#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
/* Of making a file with a random name: each time another sweeper must come between. */
#define TRIES 100

struct store {
    char *dir; /* absolute: the working directory may change */
    int fd;
    int new_fd;
    unsigned block_bytes;
};

/* ---- names ------------------------------------------------------------------- */

/* What may stand in a name of ours, and in a volume's (Docker's own rule). */
static bool is_plain(const char *name, size_t max_bytes)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static const char later[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    return name[0] && strchr(first, name[0]) && name[strspn(name, later)] == '\0' &&
           strlen(name) <= max_bytes;
}

bool store_is_name(const char *name)
{
    return is_plain(name, NAME_MAX - strlen(ARCHIVE_SUFFIX)) && strcmp(name, "now") != 0;
}

/* The files of a snapshot. */
struct names {
    char archive[NAME_MAX + 1];
    char index[NAME_MAX + 1];
};

static int make_names(const char *name, struct names *ret_names, struct fail *why)
{
    if (!store_is_name(name))
        return fail_set(why, EINVAL, "%s is no name for a snapshot", name);
    (void)snprintf(ret_names->archive, sizeof(ret_names->archive), "%s" ARCHIVE_SUFFIX, name);
    (void)snprintf(ret_names->index, sizeof(ret_names->index), "%s" INDEX_SUFFIX, name);
    return 0;
}

/* ---- opening ----------------------------------------------------------------- */

/* Makes the directory where it is missing: whether it was. */
static int make_dir(int at, const char *name, struct fail *why)
{
    if (mkdirat(at, name, 0700) == 0)
        return 1;
    return errno == EEXIST ? 0 : fail_errno(why, errno, "cannot make %s in the store", name);
}

static int open_dir(int at, const char *name, struct fail *why)
{
    int fd = openat(at, name, DIR_FLAGS);
    return fd >= 0 ? fd : fail_errno(why, errno, "cannot open %s in the store", name);
}

/* Whether that name in the directory is this very file. */
static bool is_file(int at, const char *name, int fd)
{
    struct stat named;
    struct stat open;
    return fstatat(at, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &open) == 0 &&
           named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

/* Removes a file of .new unless somebody makes it. */
static void sweep_file(int new_fd, const char *name)
{
    int fd cleanup_close = openat(new_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && is_file(new_fd, name, fd))
        (void)unlinkat(new_fd, name, 0);
}

static DIR *open_stream(int dir_fd)
{
    int fd = openat(dir_fd, ".", DIR_FLAGS);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (!stream && fd >= 0)
        (void)close(fd);
    return stream;
}

static void close_stream(DIR *stream)
{
    (void)closedir(stream);
}
DEFINE_CLEANUP(cleanup_stream_impl, DIR, close_stream)
#define cleanup_stream cleanup(cleanup_stream_impl)

/* Nothing here is worth a failure: what stays is looked at again the next time. */
static void sweep(int new_fd)
{
    DIR *stream cleanup_stream = open_stream(new_fd);
    struct dirent *item;
    while (stream && (item = readdir(stream)))
        if (item->d_name[0] != '.')
            sweep_file(new_fd, item->d_name);
}

/* Whether blocks can be shared is found out by doing it; where it cannot be found out
 * (a full disk), they cannot. */
static unsigned probe_block_bytes(struct store *store)
{
    static const char zeros[65536];
    struct store_new from cleanup_store_new = STORE_NEW_INIT;
    struct store_new to cleanup_store_new = STORE_NEW_INIT;
    struct statfs fs;
    if (fstatfs(store->new_fd, &fs) < 0 || fs.f_bsize <= 0 || (size_t)fs.f_bsize > sizeof(zeros) ||
        store_new_file(store, &from, NULL) < 0 || store_new_file(store, &to, NULL) < 0 ||
        fd_pwrite_all(from.fd, zeros, (size_t)fs.f_bsize, 0) < 0)
        return 0;
    struct file_clone_range range = {.src_fd = from.fd, .src_length = (uint64_t)fs.f_bsize};
    return ioctl(to.fd, FICLONERANGE, &range) == 0 ? (unsigned)fs.f_bsize : 0;
}

/* A new directory is there after a power cut only if those above it are synced too. */
static void sync_upwards(int fd)
{
    int at = openat(fd, ".", DIR_FLAGS);
    struct stat below;
    struct stat here;
    while (at >= 0 && fsync(at) == 0 && fstat(at, &below) == 0) {
        int up = openat(at, "..", DIR_FLAGS);
        (void)close(at);
        at = up;
        if (at >= 0 && fstat(at, &here) == 0 && here.st_ino == below.st_ino &&
            here.st_dev == below.st_dev)
            break;
    }
    if (at >= 0)
        (void)close(at);
}

static int open_dirs(struct store *store, const char *dir, struct fail *why)
{
    int r = fd_make_dirs(dir, why);
    if (r < 0)
        return r;
    store->dir = realpath(dir, NULL);
    store->fd = store->dir ? open(store->dir, DIR_FLAGS) : -1;
    if (store->fd < 0)
        return fail_errno(why, errno, "cannot open the store %s", dir);
    r = make_dir(store->fd, NEW_DIR, why);
    if (r > 0)
        sync_upwards(store->fd);
    if (r >= 0)
        r = store->new_fd = open_dir(store->fd, NEW_DIR, why);
    return r < 0 ? fail_prefix(why, r, "%s", dir) : 0;
}

int store_open(const char *dir, struct store **ret_store, struct fail *why)
{
    struct store *store cleanup_store = calloc(1, sizeof(*store));
    if (!store)
        return -ENOMEM;
    store->fd = -1;
    store->new_fd = -1;
    int r = open_dirs(store, dir, why);
    if (r < 0)
        return r;
    sweep(store->new_fd);
    store->block_bytes = probe_block_bytes(store);
    *ret_store = take(store);
    return 0;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    if (store->fd >= 0)
        (void)close(store->fd);
    if (store->new_fd >= 0)
        (void)close(store->new_fd);
    free(store->dir);
    free(store);
}

unsigned store_block_bytes(const struct store *store)
{
    return store->block_bytes;
}

int store_statvfs(struct store *store, struct statvfs *ret_stat)
{
    return fstatvfs(store->fd, ret_stat) < 0 ? -errno : 0;
}

/* ---- new files ----------------------------------------------------------------- */

/* A file of that name in .new, locked.  -EAGAIN: a sweep was faster, or there is one. */
static int make_locked(struct store *store, const char *name)
{
    int fd cleanup_close =
        openat(store->new_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EEXIST ? -EAGAIN : -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int error = errno; /* EWOULDBLOCK, which is EAGAIN: it is being swept */
        (void)unlinkat(store->new_fd, name, 0);
        return -error;
    }
    return is_file(store->new_fd, name, fd) ? take_fd(&fd) : -EAGAIN;
}

static int make_random(struct store *store, char **ret_path)
{
    uint64_t random;
    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return -EIO;
    cleanup_free char *path = NULL;
    if (asprintf(&path, "%s/" NEW_DIR "/%016llx", store->dir, (unsigned long long)random) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    int fd = make_locked(store, strrchr(path, '/') + 1);
    if (fd >= 0)
        *ret_path = take(path);
    return fd;
}

int store_new_file(struct store *store, struct store_new *ret_file, struct fail *why)
{
    int fd = -EAGAIN;
    for (int i = 0; fd == -EAGAIN && i < TRIES; i++)
        fd = make_random(store, &ret_file->path);
    if (fd < 0)
        return fail_errno(why, -fd, "cannot make a file in the store %s", store->dir);
    ret_file->fd = fd;
    return 0;
}

void store_new_done(struct store_new *file)
{
    int saved = errno;
    if (file->path)
        (void)unlink(file->path);
    free(take(file->path));
    if (file->fd >= 0)
        (void)close(take_fd(&file->fd));
    errno = saved;
}

/* ---- changing ------------------------------------------------------------------ */

/* The volume's directory.  -ENOENT. */
static int open_volume(struct store *store, const char *volume, struct fail *why)
{
    if (!is_plain(volume, NAME_MAX))
        return fail_set(why, EINVAL, "%s is no name of a volume", volume);
    int fd = openat(store->fd, volume, DIR_FLAGS);
    return fd >= 0 ? fd : fail_errno(why, errno, "cannot open %s/%s", store->dir, volume);
}

/* The same, made where it is missing. */
static int make_volume(struct store *store, const char *volume, struct fail *why)
{
    int r = is_plain(volume, NAME_MAX) ? make_dir(store->fd, volume, why) : 0;
    if (r > 0 && fsync(store->fd) < 0)
        return fail_errno(why, errno, "cannot sync the store");
    return r < 0 ? r : open_volume(store, volume, why);
}

/* rename(2) onto a name that is free; -EEXIST. */
static int move(int from_fd, const char *from, int to_fd, const char *to)
{
    if (renameat2(from_fd, from, to_fd, to, RENAME_NOREPLACE) == 0)
        return 0;
    /* A file system that cannot (NFS). */
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    if (linkat(from_fd, from, to_fd, to, 0) < 0)
        return -errno;
    (void)unlinkat(from_fd, from, 0);
    return 0;
}

static const char *base_name(const struct store_new *file)
{
    return strrchr(file->path, '/') + 1;
}

/* The file is no longer in .new. */
static void forget_path(struct store_new *file)
{
    free(take(file->path));
}

static int sync_file(const struct store_new *file, struct fail *why)
{
    return fsync(file->fd) < 0 ? fail_errno(why, errno, "cannot write the snapshot to disk") : 0;
}

static int put_index(struct store *store, int volume_fd, const char *name, struct store_new *index,
                     struct fail *why)
{
    if (renameat(store->new_fd, base_name(index), volume_fd, name) < 0)
        return fail_errno(why, errno, "cannot put the index %s in its place", name);
    forget_path(index);
    return 0;
}

/* Puts both in their places, or none. */
static int put_both(struct store *store, int volume_fd, const struct names *names,
                    struct store_new *archive, struct store_new *index, struct fail *why)
{
    int r = move(store->new_fd, base_name(archive), volume_fd, names->archive);
    if (r == -EEXIST)
        return fail_set(why, EEXIST, "there is a snapshot of that name already");
    if (r < 0)
        return fail_errno(why, -r, "cannot put the snapshot %s in its place", names->archive);
    forget_path(archive);
    r = put_index(store, volume_fd, names->index, index, why);
    if (r == 0 && fsync(volume_fd) < 0)
        r = fail_errno(why, errno, "cannot write the snapshot's directory to disk");
    if (r < 0 && is_file(volume_fd, names->archive, archive->fd)) {
        (void)unlinkat(volume_fd, names->archive, 0);
        (void)unlinkat(volume_fd, names->index, 0);
    }
    return r;
}

int store_publish(struct store *store, const char *volume, const char *name,
                  struct store_new *archive, struct store_new *index, struct fail *why)
{
    struct names names;
    int r = make_names(name, &names, why);
    if (r == 0)
        r = sync_file(archive, why);
    if (r == 0)
        r = sync_file(index, why);
    if (r < 0)
        return r;
    int volume_fd cleanup_close = make_volume(store, volume, why);
    return volume_fd < 0 ? volume_fd : put_both(store, volume_fd, &names, archive, index, why);
}

int store_publish_index(struct store *store, const char *volume, const char *name,
                        struct store_new *index, struct fail *why)
{
    struct names names;
    struct stat st;
    int r = make_names(name, &names, why);
    if (r == 0)
        r = sync_file(index, why);
    if (r < 0)
        return r;
    int volume_fd cleanup_close = open_volume(store, volume, why);
    if (volume_fd < 0)
        return volume_fd;
    if (fstatat(volume_fd, names.archive, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno(why, errno, "%s", names.archive);
    return put_index(store, volume_fd, names.index, index, why);
}

int store_remove(struct store *store, const char *volume, const char *name, struct fail *why)
{
    struct names names;
    int r = make_names(name, &names, why);
    if (r < 0)
        return r;
    int volume_fd cleanup_close = open_volume(store, volume, why);
    if (volume_fd < 0)
        return volume_fd;
    if (unlinkat(volume_fd, names.archive, 0) < 0)
        r = fail_errno(why, errno, "cannot remove %s", names.archive);
    if (r == 0 || r == -ENOENT) /* what a crash between the two left goes too */
        (void)unlinkat(volume_fd, names.index, 0);
    return r;
}

int store_rename(struct store *store, const char *volume, const char *from, const char *to,
                 struct fail *why)
{
    struct names old;
    struct names new;
    int r = make_names(from, &old, why);
    if (r == 0)
        r = make_names(to, &new, why);
    if (r < 0)
        return r;
    int volume_fd cleanup_close = open_volume(store, volume, why);
    if (volume_fd < 0)
        return volume_fd;
    r = move(volume_fd, old.archive, volume_fd, new.archive);
    if (r < 0)
        return fail_errno(why, -r, "cannot rename %s to %s", old.archive, new.archive);
    if (renameat(volume_fd, old.index, volume_fd, new.index) < 0)
        (void)unlinkat(volume_fd, new.index, 0); /* of a snapshot long gone */
    return 0;
}

/* ---- looking ------------------------------------------------------------------- */

/* The snapshot's name in a file's, in place; false: it is no archive. */
static bool cut_suffix(char *file_name)
{
    size_t bytes = strlen(file_name);
    size_t suffix = strlen(ARCHIVE_SUFFIX);
    if (bytes <= suffix || strcmp(file_name + bytes - suffix, ARCHIVE_SUFFIX) != 0)
        return false;
    file_name[bytes - suffix] = '\0';
    return store_is_name(file_name);
}

static bool is_regular(int dir_fd, const struct dirent *item)
{
    struct stat st;
    if (item->d_type != DT_UNKNOWN)
        return item->d_type == DT_REG;
    return fstatat(dir_fd, item->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

static int list_stream(DIR *stream, store_fn *fn, void *data, struct fail *why)
{
    for (;;) {
        errno = 0;
        struct dirent *item = readdir(stream);
        if (!item)
            return errno ? fail_errno(why, errno, "cannot list the snapshots") : 0;
        if (!is_regular(dirfd(stream), item) || !cut_suffix(item->d_name))
            continue;
        int r = fn(data, item->d_name);
        if (r < 0)
            return r;
    }
}

int store_list(struct store *store, const char *volume, store_fn *fn, void *data, struct fail *why)
{
    int volume_fd cleanup_close = open_volume(store, volume, why);
    if (volume_fd < 0)
        return volume_fd == -ENOENT ? 0 : volume_fd;
    DIR *stream cleanup_stream = open_stream(volume_fd);
    if (!stream)
        return fail_errno(why, errno, "cannot list the snapshots");
    return list_stream(stream, fn, data, why);
}

struct newest {
    int volume_fd;
    struct timespec mtime;
    char *name;
};

/* Whether a snapshot of that time and name comes behind the newest so far. */
static bool is_newer(const struct newest *newest, const struct timespec *mtime, const char *name)
{
    if (!newest->name)
        return true;
    if (mtime->tv_sec != newest->mtime.tv_sec)
        return mtime->tv_sec > newest->mtime.tv_sec;
    if (mtime->tv_nsec != newest->mtime.tv_nsec)
        return mtime->tv_nsec > newest->mtime.tv_nsec;
    return strcmp(name, newest->name) > 0;
}

static int keep_newest(void *data, const char *name)
{
    struct newest *newest = data;
    struct names names;
    struct stat st;
    if (make_names(name, &names, NULL) < 0 ||
        fstatat(newest->volume_fd, names.archive, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0; /* gone meanwhile */
    if (!is_newer(newest, &st.st_mtim, name))
        return 0;
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    free(newest->name);
    newest->name = copy;
    newest->mtime = st.st_mtim;
    return 0;
}

int store_newest(struct store *store, const char *volume, char **ret_name, struct fail *why)
{
    int volume_fd cleanup_close = open_volume(store, volume, why);
    if (volume_fd < 0)
        return volume_fd;
    struct newest newest = {.volume_fd = volume_fd};
    int r = store_list(store, volume, keep_newest, &newest, why);
    if (r == 0 && !newest.name)
        r = fail_set(why, ENOENT, "there is no snapshot");
    if (r < 0)
        free(newest.name);
    else
        *ret_name = newest.name;
    return r;
}

int store_stat(struct store *store, const char *volume, const char *name, struct stat *ret_stat)
{
    struct names names;
    struct stat st;
    int r = make_names(name, &names, NULL);
    int volume_fd cleanup_close = r < 0 ? r : open_volume(store, volume, NULL);
    if (volume_fd < 0)
        return volume_fd;
    if (fstatat(volume_fd, names.archive, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -ENOENT;
    *ret_stat = st;
    return 0;
}

int store_open_archive(struct store *store, const char *volume, const char *name, struct fail *why)
{
    struct names names;
    struct stat st;
    int r = make_names(name, &names, why);
    if (r < 0)
        return r;
    int volume_fd cleanup_close = open_volume(store, volume, why);
    if (volume_fd < 0)
        return volume_fd;
    int fd cleanup_close =
        openat(volume_fd, names.archive, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(why, errno == ELOOP ? ENOENT : errno, "cannot open %s", names.archive);
    if (!S_ISREG(st.st_mode))
        return fail_set(why, ENOENT, "%s is no file", names.archive);
    return take_fd(&fd);
}

char *store_index_path(struct store *store, const char *volume, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s/%s" INDEX_SUFFIX, store->dir, volume, name) < 0 ? NULL : path;
}
