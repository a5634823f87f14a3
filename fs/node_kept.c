/* SPDX-License-Identifier: MIT */
/* A kept snapshot as a file: the archive as it lies in the store. */
#include "fs/tree.h"

#include "base/fd.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct kept_file {
    struct node node;
    struct tree *tree;
    char *volume;
    struct stat archive; /* as it was found */
    pthread_mutex_t lock;
    char *name; /* which it has now, as far as is known */
};

struct handle {
    int fd;
};

static void archive_node_free(struct node *node)
{
    struct kept_file *file = (struct kept_file *)node;
    (void)pthread_mutex_destroy(&file->lock);
    free(file->volume);
    free(file->name);
    free(file);
}

static char *name_of(struct kept_file *file)
{
    scoped_lock(&file->lock);
    return strdup(file->name);
}

/* It may have been renamed. */
static void archive_node_refresh(struct node *known, struct node *fresh)
{
    struct kept_file *file = (struct kept_file *)known;
    struct kept_file *newer = (struct kept_file *)fresh; /* which nobody else has */
    char *name = take(newer->name);
    scoped_lock(&file->lock);
    newer->name = file->name; /* freed with it */
    file->name = name;
}

static int archive_node_getattr(struct node *node, const struct request *request,
                                struct stat *ret_stat, double *ret_seconds)
{
    (void)request;
    const struct kept_file *file = (const struct kept_file *)node;
    node_stat_made_up(ret_stat, S_IFREG | 0600, (uint64_t)file->archive.st_size,
                      &file->archive.st_mtim);
    *ret_seconds = KEPT_SECONDS;
    return 0;
}

static int archive_node_open(struct node *node, const struct request *request, int flags,
                             struct opened *ret_opened)
{
    (void)request, (void)flags;
    struct kept_file *file = (struct kept_file *)node;
    cleanup_free char *name = name_of(file);
    if (!name)
        return -ENOMEM;
    cleanup_close int fd =
        store_open_archive(kept_store(file->tree->kept), file->volume, name, NULL);
    if (fd < 0)
        return fd == -ENOENT ? -ESTALE : fd;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_ino != file->archive.st_ino || st.st_dev != file->archive.st_dev)
        return -ESTALE; /* another one has the name now */
    struct handle *handle = malloc(sizeof(*handle));
    if (!handle)
        return -ENOMEM;
    handle->fd = take_fd(&fd);
    *ret_opened = (struct opened){.handle = handle, .caching = OPEN_KEEP_PAGES};
    return 0;
}

static ssize_t archive_node_read(struct node *node, struct handle *handle,
                                 const struct request *request, void *data, size_t len,
                                 uint64_t offset)
{
    (void)node, (void)request;
    return fd_pread_full(handle->fd, data, len, offset);
}

static void archive_node_release(struct node *node, struct handle *handle)
{
    (void)node;
    (void)close(handle->fd);
    free(handle);
}

static void archive_node_tell_refused(struct node *node, const char *name)
{
    (void)name;
    struct kept_file *file = (struct kept_file *)node;
    cleanup_free char *held_name = name_of(file);
    cleanup_free char *file_name = NULL;
    if (!held_name || asprintf(&file_name, "%s" KEPT_SUFFIX, held_name) < 0)
        file_name = NULL; /* then without it */
    tree_tell_refused(file->tree, file->volume, "snapshots", file_name,
                      "there is a snapshot of this name: rm it first, or use another name");
}

/* touch(1) would take a snapshot; tools that copy set the source's time afterwards. */
static int archive_node_set_times(struct node *node, const struct timespec *mtime, bool is_now)
{
    (void)mtime;
    if (!is_now)
        return 0;
    archive_node_tell_refused(node, NULL);
    return -EEXIST;
}

static int archive_node_set_mode(struct node *node, mode_t mode)
{
    (void)node, (void)mode;
    return 0;
}

/* ---- what is known of it ----------------------------------------------------------- */

static int add_sha256(const struct index_about *about, struct buf *out)
{
    int r = 0;
    for (size_t i = 0; i < sizeof(about->sha256) && r == 0; i++)
        r = buf_printf(out, "%02x", about->sha256[i]);
    return r;
}

static int add_taken(const struct index_about *about, struct buf *out)
{
    char text[32];
    time_t taken = about->taken_s;
    struct tm utc;
    if (!gmtime_r(&taken, &utc) || !strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc))
        return -EIO;
    return buf_add_string(out, text);
}

static int add_consistency(const struct index_about *about, struct buf *out)
{
    return buf_add_string(out, about->consistency);
}

static const struct {
    const char *name;
    int (*add)(const struct index_about *about, struct buf *out);
} xattrs[] = {
    {"user.dvolfs.sha256", add_sha256},
    {"user.dvolfs.taken", add_taken},
    {"user.dvolfs.consistency", add_consistency},
};
#define XATTR_COUNT (sizeof(xattrs) / sizeof(*xattrs))

/* XATTR_COUNT: it has none of that name. */
static size_t find_xattr(const char *name)
{
    size_t i = 0;
    while (i < XATTR_COUNT && strcmp(xattrs[i].name, name) != 0)
        i++;
    return i;
}

static bool archive_node_may_have_xattr(const char *name)
{
    return find_xattr(name) < XATTR_COUNT;
}

static int archive_node_get_xattr(struct node *node, const struct request *request,
                                  const char *name, struct buf *out)
{
    struct kept_file *file = (struct kept_file *)node;
    size_t i = find_xattr(name);
    if (i == XATTR_COUNT)
        return -ENODATA;
    cleanup_free char *held_name = name_of(file);
    if (!held_name)
        return -ENOMEM;
    struct snapshot *snapshot cleanup_snapshot = NULL;
    struct fail why = FAIL_INIT;
    int r = kept_open(file->tree->kept, file->volume, held_name, request->cancel, &snapshot, &why);
    if (r == -ENOENT)
        return -ESTALE;
    if (r < 0) {
        if (r != -EINTR)
            log_event(file->tree->log, "%s/snapshots/%s" KEPT_SUFFIX ": %s", file->volume,
                      held_name, fail_text(&why, r));
        return r;
    }
    struct index_about about;
    snapshot_about(snapshot, &about);
    return xattrs[i].add(&about, out);
}

static int archive_node_list_xattrs(struct node *node, const struct request *request,
                                    struct buf *out)
{
    (void)node, (void)request;
    int r = 0;
    for (size_t i = 0; i < XATTR_COUNT && r == 0; i++)
        r = buf_add(out, xattrs[i].name, strlen(xattrs[i].name) + 1);
    return r;
}

static const struct node_ops archive_node_ops = {
    .waits = NODE_WAITS_LOOKUP, /* an index may have to be made */
    .refuse_writing = EEXIST,   /* a snapshot is taken, or imported, under a new name */
    .tell_refused = archive_node_tell_refused,
    .free = archive_node_free,
    .getattr = archive_node_getattr,
    .open = archive_node_open,
    .read = archive_node_read,
    .release = archive_node_release,
    .set_times = archive_node_set_times,
    .set_mode = archive_node_set_mode,
    .may_have_xattr = archive_node_may_have_xattr,
    .get_xattr = archive_node_get_xattr,
    .list_xattrs = archive_node_list_xattrs,
    .refresh = archive_node_refresh,
};

int node_kept_new(struct tree *tree, const char *volume, const char *name, struct node **ret_node)
{
    struct stat archive;
    int r = store_stat(kept_store(tree->kept), volume, name, &archive);
    if (r < 0)
        return r;
    struct kept_file *file = calloc(1, sizeof(*file));
    if (file)
        (void)pthread_mutex_init(&file->lock, NULL);
    if (!file || !(file->volume = strdup(volume)) || !(file->name = strdup(name))) {
        if (file)
            archive_node_free(&file->node);
        return -ENOMEM;
    }
    node_init(&file->node, &archive_node_ops, INO_KEPT | tree_hash_stat(&archive));
    file->tree = tree;
    file->archive = archive;
    *ret_node = &file->node;
    return 0;
}
