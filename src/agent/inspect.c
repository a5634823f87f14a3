/* SPDX-License-Identifier: MIT */
#include "agent/inspect.h"

#include "agent/beneath.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <time.h>

#ifndef PATH_MAX
#define PATH_MAX 4096
#endif
/* fs/bcachefs; not in linux/magic.h of the kernels we build on. */
#define BCACHEFS_MAGIC 0xca451a4e
/* The names of one directory in memory: a million of 64 bytes. */
#define NAMES_MAX_BYTES ((size_t)256 << 20)
#define NAMES_AT_ONCE_BYTES ((size_t)32 * 1024)

struct listing {
    int fd;
    struct buf names;    /* one after the other, each with its NUL */
    const char **sorted; /* into names */
    size_t count;
    size_t next;
};

/* ---- one file ------------------------------------------------------------------ */

static struct file_time time_of(const struct statx_timestamp *ts)
{
    return (struct file_time){.s = ts->tv_sec, .ns = ts->tv_nsec};
}

static int read_stat(int dir, const char *name, struct file_stat *ret)
{
    struct statx st;
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (name[0] ? 0 : AT_EMPTY_PATH);
    if (statx(dir, name, flags, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
        return -errno;
    *ret = (struct file_stat){
        .mode = st.stx_mode,
        .nlink = st.stx_nlink,
        .uid = st.stx_uid,
        .gid = st.stx_gid,
        .size_bytes = st.stx_size,
        .blocks = st.stx_blocks,
        .dev = makedev(st.stx_dev_major, st.stx_dev_minor),
        .ino = st.stx_ino,
        .rdev_major = st.stx_rdev_major,
        .rdev_minor = st.stx_rdev_minor,
        .mtime = time_of(&st.stx_mtime),
        .ctime = time_of(&st.stx_ctime),
        .atime = time_of(&st.stx_atime),
        .birth = time_of(&st.stx_btime),
    };
    return 0;
}

int inspect_open(int fd, struct file_stat *ret)
{
    return read_stat(fd, "", ret);
}

/* The file that a descriptor with O_PATH is of, for reading: its link in proc(5) leads to
 * that very file. */
static int open_found(int found)
{
    char link[32];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", found);
    int fd = open(link, O_RDONLY | O_CLOEXEC | O_NOATIME);
    if (fd < 0 && errno == EPERM) /* as in open_quietly */
        fd = open(link, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static bool is_wanted(const struct file_stat *st, uint64_t dev, uint64_t identity)
{
    return S_ISREG(st->mode) && st->dev == dev && file_identity(st) == identity;
}

int inspect_open_file(int root, const char *path, uint64_t dev, uint64_t identity,
                      struct file_stat *ret_stat)
{
    cleanup_close int found = beneath_open(root, path, O_PATH);
    *ret_stat = (struct file_stat){0};
    int r = found < 0 ? found : inspect_open(found, ret_stat);
    if (r < 0)
        return r;
    return is_wanted(ret_stat, dev, identity) ? open_found(found) : -ESTALE;
}

int inspect_open_quickly(int dir, const char *path, uint64_t dev, uint64_t identity,
                         struct file_stat *ret_stat)
{
    *ret_stat = (struct file_stat){0};
    int r = beneath_is_path(path) ? read_stat(dir, path, ret_stat) : -EXDEV;
    if (r < 0 || !is_wanted(ret_stat, dev, identity))
        return r < 0 ? r : -ESTALE;
    cleanup_close int fd = beneath_open(dir, path, O_RDONLY | O_NONBLOCK | O_NOATIME);
    r = fd < 0 ? fd : inspect_open(fd, ret_stat);
    if (r < 0)
        return r;
    return is_wanted(ret_stat, dev, identity) ? take_fd(&fd) : -ESTALE;
}

/* The value of one attribute behind the packed ones; it may change its length
 * between asking for that and for it. */
static int add_xattr(const char *path, const char *name, struct buf *packed)
{
    for (int tries = 0; tries < 4; tries++) {
        ssize_t len = lgetxattr(path, name, NULL, 0);
        cleanup_free char *value = len >= 0 ? malloc((size_t)len + 1) : NULL;
        if (len >= 0 && !value)
            return -ENOMEM;
        if (len >= 0)
            len = lgetxattr(path, name, value, (size_t)len);
        if (len >= 0)
            return file_xattr_add(packed, name, value, (size_t)len);
        if (errno != ERANGE)
            return 0; /* gone, or not for us: left out */
    }
    return 0;
}

static int add_xattrs(const char *path, const char *names, size_t len, struct buf *packed)
{
    int r = 0;
    for (size_t at = 0; at < len && r == 0; at += strlen(names + at) + 1)
        r = add_xattr(path, names + at, packed);
    return r == -EMSGSIZE ? -E2BIG : r;
}

/* Of newer kernels (6.13) than some headers; the same number everywhere. */
#ifndef SYS_listxattrat
#define SYS_listxattrat 465
#endif

/* Whether the file surely has no attributes: most have none, and this tells it at
 * half the price.  An older kernel, and the seccomp profile of an engine that does not
 * know the call, answer ENOSYS. */
static bool has_no_xattrs(int dir, const char *name)
{
    static atomic_bool missing;
    int flags = AT_SYMLINK_NOFOLLOW | (name[0] ? 0 : AT_EMPTY_PATH);
    if (atomic_load_explicit(&missing, memory_order_relaxed))
        return false;
    long r = syscall(SYS_listxattrat, dir, name, flags, NULL, (size_t)0);
    if (r < 0 && errno == ENOSYS)
        atomic_store_explicit(&missing, true, memory_order_relaxed);
    return r == 0;
}

/*
 * Attributes of a file that is not opened: through /proc, whose link to the
 * directory is followed, while the last component is not (there is no
 * getxattrat(2) before kernel 6.13).
 */
static int read_xattrs(int dir, const char *name, struct buf *packed)
{
    char path[64 + 256], names[1024];
    if (has_no_xattrs(dir, name))
        return 0;
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name[0] ? name : ".");
    ssize_t len = llistxattr(path, names, sizeof(names));
    if (len >= 0)
        return add_xattrs(path, names, (size_t)len, packed);
    if (errno != ERANGE)
        return errno == ENOTSUP || errno == ENOENT ? 0 : -errno;
    cleanup_free char *many = malloc(XATTR_LIST_MAX);
    if (!many)
        return -ENOMEM;
    len = llistxattr(path, many, XATTR_LIST_MAX);
    return len < 0 ? -errno : add_xattrs(path, many, (size_t)len, packed);
}

/* The runs of data of an open file.  1: it has holes; 0: it has none after all. */
static int read_extents(int fd, uint64_t size, struct buf *extents)
{
    uint64_t at = 0;
    while (at < size) {
        off_t from = lseek(fd, (off_t)at, SEEK_DATA);
        if (from < 0 && errno == ENXIO) /* a hole up to the end */
            break;
        off_t to = from < 0 ? -1 : lseek(fd, from, SEEK_HOLE);
        if (to < 0 && errno == ENXIO) /* cut short since */
            break;
        if (to < 0)
            return errno == EINVAL ? 0 : -errno; /* EINVAL: not known here */
        struct file_extent extent = {.offset = (uint64_t)from, .bytes = (uint64_t)(to - from)};
        if (extent.offset >= size)
            break;
        if (extent.bytes > size - extent.offset)
            extent.bytes = size - extent.offset;
        if (extent.bytes == size)
            return 0;
        int r = buf_add(extents, &extent, sizeof(extent));
        if (r < 0)
            return r == -EMSGSIZE ? -E2BIG : r;
        at = (uint64_t)to;
    }
    return 1;
}

/* Where fewer blocks are used than the size asks for. */
static int find_extents(int dir, const char *name, struct file *file, struct buf *extents)
{
    const struct file_stat *st = &file->stat;
    if (!S_ISREG(st->mode) || st->blocks >= (st->size_bytes + 511) / 512)
        return 0;
    struct file_stat opened;
    cleanup_close int fd = inspect_open_file(dir, name, st->dev, file_identity(st), &opened);
    if (fd < 0) /* gone or unreadable: found out when it is read */
        return 0;
    int r = read_extents(fd, st->size_bytes, extents);
    if (r <= 0)
        return r;
    file->is_sparse = true;
    file->extent_count = extents->len / sizeof(struct file_extent);
    return 0;
}

static int read_link(int dir, const char *name, char *target, size_t room)
{
    ssize_t n = readlinkat(dir, name, target, room - 1);
    if (n < 0)
        return -errno;
    target[n] = '\0';
    return 0;
}

/* Of an unsteady file that is a link, and then none, and so on. */
#define STAT_TRIES 16

/* What it is, and where it is a symbolic link, its target. */
static int read_stat_and_link(int dir, const char *name, struct file_stat *ret, char *target,
                              size_t room)
{
    for (int tries = 0; tries < STAT_TRIES; tries++) {
        int r = read_stat(dir, name, ret);
        if (r == 0 && S_ISLNK(ret->mode))
            r = read_link(dir, name, target, room);
        if (r != -EINVAL) /* of readlink: it is none any more */
            return r;
    }
    return -ENOENT;
}

/* Adds the record of dir/name ("" is dir itself), called shown. */
static int inspect_at(int dir, const char *name, const char *shown, unsigned flags, struct buf *out)
{
    char target[PATH_MAX];
    target[0] = '\0';
    struct buf xattrs cleanup_buf;
    buf_init(&xattrs, FILE_MAX_XATTR_BYTES);
    struct buf extents cleanup_buf;
    buf_init(&extents, FILE_MAX_EXTENTS * sizeof(struct file_extent));
    struct file file = {.name = shown, .link_target = target};
    int r = read_stat_and_link(dir, name, &file.stat, target, sizeof(target));
    if (r == 0 && flags & INSPECT_XATTRS)
        r = read_xattrs(dir, name, &xattrs);
    if (r == 0 && flags & INSPECT_EXTENTS)
        r = find_extents(dir, name, &file, &extents);
    if (r < 0)
        return r;
    file.xattrs = buf_string(&xattrs);
    file.xattr_bytes = xattrs.len;
    return file_write(out, &file, (const struct file_extent *)(const void *)extents.data);
}

int inspect_file(int root, const char *path, const char *name, unsigned flags, struct buf *out)
{
    const char *slash = strrchr(path, '/');
    if (!beneath_is_path(path))
        return -EXDEV;
    if (!slash)
        return inspect_at(root, path, name, flags, out);
    cleanup_free char *parent = strndup(path, (size_t)(slash - path));
    if (!parent)
        return -ENOMEM;
    cleanup_close int dir = beneath_open(root, parent, O_PATH | O_DIRECTORY);
    if (dir < 0)
        return dir;
    return inspect_at(dir, slash + 1, name, flags, out);
}

/* ---- a directory ------------------------------------------------------------------ */

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int add_name(struct listing *listing, const char *name)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return 0;
    int r = buf_add(&listing->names, name, strlen(name) + 1);
    if (r < 0)
        return r == -EMSGSIZE ? -E2BIG : r;
    listing->count++;
    return 0;
}

/* Without opendir(3), which has its memory allocated and asks for what is known: most
 * directories are small. */
static int read_names(struct listing *listing)
{
    _Alignas(struct dirent64) char entries[NAMES_AT_ONCE_BYTES];
    ssize_t n;
    while ((n = getdents64(listing->fd, entries, sizeof(entries))) > 0) {
        const struct dirent64 *entry;
        for (ssize_t at = 0; at < n; at += entry->d_reclen) {
            entry = (const struct dirent64 *)(const void *)(entries + at);
            int r = add_name(listing, entry->d_name);
            if (r < 0)
                return r;
        }
    }
    return n < 0 && errno != ENOENT ? -errno : 0; /* ENOENT: it is removed, and empty */
}

static int sort_names(struct listing *listing)
{
    listing->sorted = calloc(listing->count ? listing->count : 1, sizeof(*listing->sorted));
    if (!listing->sorted)
        return -ENOMEM;
    const char *at = buf_string(&listing->names);
    for (size_t i = 0; i < listing->count; i++, at += strlen(at) + 1)
        listing->sorted[i] = at;
    qsort(listing->sorted, listing->count, sizeof(*listing->sorted), by_bytes);
    return 0;
}

static int fill(struct listing *listing)
{
    int r = read_names(listing);
    return r < 0 ? r : sort_names(listing);
}

/* For reading, without leaving a time of access where we may: O_NOATIME is for the owner
 * and root (open(2)). */
static int open_quietly(int dir, const char *path, int flags)
{
    int fd = beneath_open(dir, path, O_RDONLY | O_NOATIME | flags);
    return fd == -EPERM ? beneath_open(dir, path, O_RDONLY | flags) : fd;
}

int listing_open(int root, const char *path, struct listing **ret_listing)
{
    cleanup_close int fd = open_quietly(root, path, O_DIRECTORY);
    if (fd < 0)
        return fd;
    struct listing *listing cleanup_listing = calloc(1, sizeof(*listing));
    if (!listing)
        return -ENOMEM;
    listing->fd = take_fd(&fd);
    buf_init(&listing->names, NAMES_MAX_BYTES);
    int r = fill(listing);
    if (r < 0)
        return r;
    *ret_listing = take(listing);
    return 0;
}

void listing_close(struct listing *listing)
{
    if (!listing)
        return;
    cleanup_close_impl(&listing->fd);
    buf_done(&listing->names);
    free(listing->sorted);
    free(listing);
}

/* Nothing of what is gone. */
static int inspect_number(const struct listing *listing, size_t number, unsigned flags,
                          struct buf *out)
{
    const char *name = listing->sorted[number];
    int r = inspect_at(listing->fd, name, name, flags, out);
    return r == -ENOENT ? 0 : r;
}

int listing_next(struct listing *listing, unsigned flags, size_t max_bytes, struct buf *out)
{
    size_t begun = out->len;
    int r = 0;
    while (r == 0 && listing->next < listing->count && out->len - begun < max_bytes)
        r = inspect_number(listing, listing->next++, flags, out);
    return r < 0 ? r : out->len > begun;
}

size_t listing_count(const struct listing *listing)
{
    return listing->count;
}

int listing_piece(const struct listing *listing, size_t from, size_t count, unsigned flags,
                  struct buf *out)
{
    int r = 0;
    for (size_t i = from; r == 0 && i < listing->count && i - from < count; i++)
        r = inspect_number(listing, i, flags, out);
    return r;
}

int listing_fd(const struct listing *listing)
{
    return listing->fd;
}

static bool is_one_of(int dir, const uint64_t *magics, size_t count)
{
    struct statfs fs;
    if (fstatfs(dir, &fs) < 0)
        return false;
    for (size_t i = 0; i < count; i++)
        if ((uint64_t)fs.f_type == magics[i])
            return true;
    return false;
}

/* Whether the file system notices every store, once what was dirty is written: those
 * of which we know. */
static bool notices_stores(int root)
{
    static const uint64_t magics[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC,
                                      F2FS_SUPER_MAGIC, BCACHEFS_MAGIC};
    return is_one_of(root, magics, sizeof(magics) / sizeof(*magics));
}

bool inspect_is_of_this_machine(int dir)
{
    static const uint64_t magics[] = {TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC};
    return notices_stores(dir) || is_one_of(dir, magics, sizeof(magics) / sizeof(*magics));
}

struct file_time inspect_sync(int root)
{
    struct timespec before;
    (void)clock_gettime(CLOCK_REALTIME_COARSE, &before);
    if (!notices_stores(root) || syncfs(root) < 0)
        return (struct file_time){.s = INT64_MIN};
    return (struct file_time){.s = before.tv_sec, .ns = (uint32_t)before.tv_nsec};
}
