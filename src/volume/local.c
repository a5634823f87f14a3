/* SPDX-License-Identifier: MIT */
#include "volume/local.h"

#include "agent/beneath.h"
#include "agent/walk.h"
#include "base/fd.h"
#include "engine/json.h"
#include "engine/volumes.h"
#include "volume/ids.h"
#include "volume/nodev_mount.h"
#include "volume/owner.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>

struct local {
    atomic_int refs;
    int engine_root;
};

struct local_contents {
    struct contents head;
    int root;
    int nodev_root; /* the same by nodev_mount_of; negative: not to be had */
};

struct local_dir {
    struct contents_dir head;
    struct listing *listing;
};

struct local_file {
    struct contents_file head;
    int fd;     /* -1: all of it is in bytes */
    size_t len; /* of that */
    char bytes[];
};

/* ---- contents ------------------------------------------------------------------ */

static int root_of(const struct contents *contents)
{
    return ((const struct local_contents *)contents)->root;
}

static int local_stat(struct contents *contents, const char *path, unsigned flags,
                      struct cancel *cancel, struct buf *ret_record)
{
    (void)cancel;
    return inspect_file(root_of(contents), path, "", flags, ret_record);
}

static int local_dir_open(struct contents *contents, const char *path, struct cancel *cancel,
                          struct contents_dir **ret_dir)
{
    (void)cancel;
    struct local_dir *dir = calloc(1, sizeof(*dir));
    if (!dir)
        return -ENOMEM;
    int r = listing_open(root_of(contents), path, &dir->listing);
    if (r < 0) {
        free(dir);
        return r;
    }
    *ret_dir = &dir->head;
    return 0;
}

static int local_dir_next(struct contents_dir *dir, size_t max_bytes, struct cancel *cancel,
                          struct buf *ret_records)
{
    (void)cancel;
    return listing_next(((struct local_dir *)dir)->listing, 0, max_bytes, ret_records);
}

static void local_dir_close(struct contents_dir *dir)
{
    listing_close(((struct local_dir *)dir)->listing);
    free(dir);
}

static int local_walk(struct contents *contents, struct cancel *cancel, contents_fn *fn, void *data,
                      struct fail *why)
{
    struct walk *walk cleanup_walk = walk_new(root_of(contents), INSPECT_XATTRS | INSPECT_EXTENTS);
    if (!walk)
        return fail_errno(why, ENOMEM, "listing");
    struct file file;
    int r;
    while ((r = walk_step(walk, &file)) > 0) {
        if (cancel_is_raised(cancel))
            return fail_set(why, EINTR, "interrupted");
        r = fn(data, &file);
        if (r < 0)
            return r;
    }
    return r < 0 ? fail_errno(why, -r, "listing %s", walk_path(walk)) : 0;
}

static struct local_file *file_new(size_t room)
{
    struct local_file *file = malloc(sizeof(*file) + room);
    if (file)
        *file = (struct local_file){.fd = -1};
    return file;
}

static void local_file_close(struct contents_file *head)
{
    struct local_file *file = (struct local_file *)head;
    cleanup_close_impl(&file->fd);
    free(file);
}

static int local_file_open(struct contents *contents, const char *path, uint64_t dev, uint64_t id,
                           struct cancel *cancel, struct contents_file **ret_file)
{
    (void)cancel;
    int nodev_root = ((const struct local_contents *)contents)->nodev_root;
    struct file_stat st;
    cleanup_close int fd =
        nodev_root >= 0 ? inspect_open_quickly(nodev_root, path, dev, id, &st) : -1;
    if (fd < 0) /* also what is mounted below the volume's directory */
        fd = inspect_open_file(root_of(contents), path, dev, id, &st);
    if (fd < 0)
        return fd;
    struct local_file *file = file_new(0);
    if (!file)
        return -ENOMEM;
    file->fd = take_fd(&fd);
    *ret_file = &file->head;
    return 0;
}

static ssize_t local_file_read(struct contents_file *head, void *data, size_t len, uint64_t offset,
                               struct cancel *cancel)
{
    (void)cancel;
    const struct local_file *file = (const struct local_file *)head;
    if (file->fd >= 0)
        return fd_pread_full(file->fd, data, len, offset);
    if (offset >= file->len)
        return 0;
    if (len > file->len - offset)
        len = file->len - (size_t)offset;
    memcpy(data, file->bytes + offset, len);
    return (ssize_t)len;
}

static int64_t local_file_seek(struct contents_file *head, uint64_t offset, int whence,
                               struct cancel *cancel)
{
    (void)cancel;
    const struct local_file *file = (const struct local_file *)head;
    if (file->fd < 0) /* all data: what was read tells of no holes */
        return offset >= file->len ? -ENXIO : (int64_t)(whence == SEEK_HOLE ? file->len : offset);
    off_t at = lseek(file->fd, (off_t)offset, whence);
    return at < 0 ? -errno : at;
}

/* ---- several files at once ---------------------------------------------------------- */

/* What the disk is asked for of a large file that is about to be read. */
#define LARGE_BEGINNING ((off_t)1 << 20)

static int read_small(int fd, size_t size, struct contents_file **ret_file)
{
    struct local_file *file = file_new(size);
    if (!file)
        return -ENOMEM;
    ssize_t n = fd_pread_full(fd, file->bytes, size, 0);
    if (n < 0) {
        free(file);
        return (int)n;
    }
    file->len = (size_t)n;
    *ret_file = &file->head;
    return 0;
}

/* Where a batch's files are: most of them in one directory after the other. */
struct place {
    struct contents *contents;
    int root; /* nodev_root, or else the other */
    int dir;
    const char *path; /* of dir */
    size_t path_bytes;
};

static void place_done(struct place *place)
{
    cleanup_close_impl(&place->dir);
}

/* Goes to the directory that path begins with: 0 with the name in it. */
static int enter_parent(struct place *place, const char *path, const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    size_t bytes = slash ? (size_t)(slash - path) : 0;
    *ret_name = slash ? slash + 1 : path;
    if (place->dir >= 0 && bytes == place->path_bytes && memcmp(path, place->path, bytes) == 0)
        return 0;
    cleanup_free char *parent = strndup(path, bytes);
    if (!parent)
        return -ENOMEM;
    cleanup_close_impl(&place->dir);
    place->dir = beneath_open(place->root, parent, O_PATH | O_DIRECTORY);
    place->path = path;
    place->path_bytes = bytes;
    return place->dir < 0 ? place->dir : 0;
}

static int open_want(struct place *place, const struct contents_want *want,
                     struct contents_file **ret_file)
{
    const char *name;
    struct file_stat st;
    int root = root_of(place->contents);
    int r = enter_parent(place, want->path, &name);
    bool is_nodev = place->root != root;
    cleanup_close int fd = r;
    if (r == 0 && is_nodev)
        fd = inspect_open_quickly(place->dir, name, want->dev, want->id, &st);
    else if (r == 0)
        fd = inspect_open_file(place->dir, name, want->dev, want->id, &st);
    if (fd < 0 && is_nodev) /* as what is mounted below the volume's directory */
        fd = inspect_open_file(root, want->path, want->dev, want->id, &st);
    if (fd < 0)
        return fd;
    if (st.size_bytes <= CONTENTS_SMALL_BYTES)
        return read_small(fd, (size_t)st.size_bytes, ret_file);
    struct local_file *file = file_new(0);
    if (!file)
        return -ENOMEM;
    (void)posix_fadvise(fd, 0, LARGE_BEGINNING, POSIX_FADV_WILLNEED);
    file->fd = take_fd(&fd);
    *ret_file = &file->head;
    return 0;
}

static void local_open_many(struct contents *contents, struct contents_want *wants, size_t count,
                            struct cancel *cancel)
{
    int nodev_root = ((const struct local_contents *)contents)->nodev_root;
    struct place place cleanup(place_done) = {
        .contents = contents,
        .root = nodev_root >= 0 ? nodev_root : root_of(contents),
        .dir = -1,
    };
    for (size_t i = 0; i < count; i++) {
        wants[i].file = NULL;
        wants[i].result =
            cancel_is_raised(cancel) ? -EINTR : open_want(&place, &wants[i], &wants[i].file);
    }
}

static int local_sync(struct contents *contents, struct cancel *cancel, int64_t *ret_s,
                      uint32_t *ret_ns)
{
    (void)cancel;
    struct file_time moment = inspect_sync(root_of(contents));
    *ret_s = moment.s;
    *ret_ns = moment.ns;
    return 0;
}

static void local_free(struct contents *contents)
{
    struct local_contents *local = (struct local_contents *)contents;
    cleanup_close_impl(&local->nodev_root);
    (void)close(local->root);
    free(local);
}

static const struct contents_ops local_ops = {
    .stat = local_stat,
    .dir_open = local_dir_open,
    .dir_next = local_dir_next,
    .dir_close = local_dir_close,
    .walk = local_walk,
    .open = local_file_open,
    .read = local_file_read,
    .seek = local_file_seek,
    .close = local_file_close,
    .open_many = local_open_many,
    .sync = local_sync,
    .free = local_free,
};

/* Takes both. */
static struct contents *contents_new(int root, int nodev_root)
{
    struct local_contents *contents = calloc(1, sizeof(*contents));
    if (!contents) {
        (void)close(root);
        cleanup_close_impl(&nodev_root);
        return NULL;
    }
    contents->head.ops = &local_ops;
    contents->head.refs = 1;
    contents->root = root;
    contents->nodev_root = nodev_root;
    return &contents->head;
}

struct contents *local_contents_at(int root)
{
    return contents_new(root, nodev_mount_of(root));
}

struct contents *local_contents_within(int root, pid_t process)
{
    return contents_new(root, nodev_mount_within(root, process));
}

/* Opens an absolute path of the engine's as the engine would: symbolic links
 * (/var/lib/docker is often one) are resolved within its root. */
static int open_as_engine(const struct local *local, const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, local->engine_root, path, &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

int local_contents(struct local *local, const char *mountpoint, struct contents **ret_contents,
                   struct fail *why)
{
    int root = open_as_engine(local, mountpoint);
    if (root < 0)
        return fail_errno(why, -root, "%s on the engine's side", mountpoint);
    struct contents *contents = local_contents_at(root);
    if (!contents)
        return fail_errno(why, ENOMEM, "%s", mountpoint);
    *ret_contents = contents;
    return 0;
}

/* ---- the proof ------------------------------------------------------------------- */

static int open_root_of(int pid, struct fail *why)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/root", pid);
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_set(why, ENOTSUP, "the engine's root cannot be opened (%s)", strerror(errno));
    return fd;
}

static int make_nonce(char name[64], struct fail *why)
{
    uint64_t random[2];
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return fail_errno(why, errno, "getrandom");
    (void)snprintf(name, 64, LOCAL_PREFIX "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    return 0;
}

/* Whether a whole component of the path is the name. */
static bool has_component(const char *path, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = path; (at = strstr(at, name)); at += len)
        if (at > path && at[-1] == '/' && (at[len] == '/' || !at[len]))
            return true;
    return false;
}

/* Whether the new volume appears at its place here; where its name is no part of
 * the place, it proves nothing. */
static int find_nonce(const struct local *local, const char *name, const char *mountpoint,
                      struct fail *why)
{
    cleanup_close int fd =
        mountpoint && has_component(mountpoint, name) ? open_as_engine(local, mountpoint) : -ENOENT;
    if (fd < 0)
        return fail_set(why, ENOTSUP, "the engine's volumes are not seen from here");
    return 0;
}

static int prove(struct engine *engine, const struct local *local, struct fail *why)
{
    char name[64], owner[OWNER_BYTES];
    cleanup_free char *mountpoint = NULL;
    int r = owner_self(owner);
    if (r < 0)
        return fail_set(why, -r, "/proc does not say who this process is");
    r = make_nonce(name, why);
    if (r == 0)
        r = engine_volume_create(engine, name, LOCAL_LABEL, owner, NULL, &mountpoint, why);
    if (r < 0)
        return r;
    r = find_nonce(local, name, mountpoint, why);
    int removed = engine_volume_remove(engine, name, NULL, r < 0 ? NULL : why);
    return r < 0 ? r : removed;
}

int local_open(struct engine *engine, struct local **ret_local, struct fail *why)
{
    int pid = engine_peer(engine, why);
    if (pid < 0)
        return pid == -ESRCH ? -ENOTSUP : pid;
    if (geteuid() != 0)
        return fail_set(why, ENOTSUP, "only root may read the engine's directories");
    if (!ids_are_own(pid) || !ids_are_own(getpid()))
        return fail_set(why, ENOTSUP, "the engine's user ids are not this machine's");
    cleanup_close int root = open_root_of(pid, why);
    if (root < 0)
        return root;
    struct local *local = calloc(1, sizeof(*local));
    if (!local)
        return fail_errno(why, ENOMEM, "local access");
    atomic_init(&local->refs, 1);
    local->engine_root = take_fd(&root);
    int r = prove(engine, local, why);
    if (r < 0) {
        local_unref(local);
        return r;
    }
    *ret_local = local;
    return 0;
}

struct local *local_ref(struct local *local)
{
    atomic_fetch_add(&local->refs, 1);
    return local;
}

void local_unref(struct local *local)
{
    if (!local || atomic_fetch_sub(&local->refs, 1) != 1)
        return;
    (void)close(local->engine_root);
    free(local);
}

/* Whether the volume is a proof that a process which died did not remove. */
static bool is_left_behind(const struct engine_volume *volume)
{
    if (strncmp(volume->name, LOCAL_PREFIX, sizeof(LOCAL_PREFIX) - 1) != 0)
        return false;
    cJSON *object cleanup_json = json_parse(volume->json, strlen(volume->json));
    const char *owner =
        json_string(cJSON_GetObjectItemCaseSensitive(object, "Labels"), LOCAL_LABEL);
    return owner && owner_check(owner, 0) == OWNER_DEAD;
}

int local_sweep(struct engine *engine, struct fail *why)
{
    struct engine_volume_list list;
    int r = engine_volume_list(engine, NULL, &list, why);
    if (r < 0)
        return r;
    int removed = 0;
    for (size_t i = 0; i < list.count; i++)
        if (is_left_behind(&list.items[i]) &&
            engine_volume_remove(engine, list.items[i].name, NULL, NULL) == 0)
            removed++;
    engine_volume_list_done(&list);
    return removed;
}
