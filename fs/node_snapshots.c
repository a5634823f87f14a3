/* SPDX-License-Identifier: MIT */
/* snapshots/: now.tar and its compressed forms, of which each moment is a file of its
 * own, and the kept snapshots. */
#include "fs/inbox.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define NOW_NAME "now.tar"

/* ---- now.tar --------------------------------------------------------------- */

struct now_tar {
    struct node node;
    struct tree *tree;
    char *volume;
    enum now_format format;
    struct moment *moment;
};

static void now_free(struct node *node)
{
    struct now_tar *now = (struct now_tar *)node;
    moment_unref(now->moment);
    free(now->volume);
    free(node);
}

static int now_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                       double *ret_seconds)
{
    struct now_archive_info info;
    int r = moment_stat(((struct now_tar *)node)->moment, request_process(request), request->cancel,
                        &info);
    if (r < 0)
        return r;
    node_stat_made_up(ret_stat, S_IFREG | 0600, info.bytes, &info.newest);
    /* A moment does not change (and its name is looked up each time): else the kernel asks
     * before each read(2). */
    *ret_seconds = NODE_IMMUTABLE_SECONDS;
    return 0;
}

/* A size once known must not be lost by a later lookup: somebody may be reading. */
static void now_peek(struct node *node, struct stat *ret_stat)
{
    struct now_archive_info info = {0};
    (void)moment_peek(((struct now_tar *)node)->moment, &info);
    node_stat_made_up(ret_stat, S_IFREG | 0600, info.bytes, &info.newest);
}

static int now_open(struct node *node, const struct request *request, int flags,
                    struct opened *ret_opened)
{
    (void)flags;
    int r =
        moment_open(((struct now_tar *)node)->moment, request_process(request), request->cancel);
    if (r < 0)
        return r;
    struct now_archive_info info = {0};
    (void)moment_peek(((struct now_tar *)node)->moment, &info);
    *ret_opened = (struct opened){.caching = OPEN_KEEP_PAGES, .bytes = info.bytes};
    return 0;
}

static ssize_t now_read(struct node *node, struct handle *handle, const struct request *request,
                        void *data, size_t len, uint64_t offset)
{
    (void)handle;
    return moment_read(((struct now_tar *)node)->moment, data, len, offset, request->cancel);
}

static void now_release(struct node *node, struct handle *handle)
{
    (void)handle;
    moment_close(((struct now_tar *)node)->moment);
}

/* What the archive could not give as it was when it was made: how many files. */
#define AFFECTED "user.dvolfs.affected"

static int now_get_xattr(struct node *node, const struct request *request, const char *name,
                         struct buf *out)
{
    (void)request;
    if (strcmp(name, AFFECTED) != 0)
        return -ENODATA;
    return buf_printf(out, "%" PRIu64, moment_affected(((struct now_tar *)node)->moment));
}

static int now_list_xattrs(struct node *node, const struct request *request, struct buf *out)
{
    (void)node, (void)request;
    return buf_add(out, AFFECTED, sizeof(AFFECTED));
}

static void tell_now_refused(struct tree *tree, const char *volume, const char *name)
{
    tree_tell_refused(tree, volume, "snapshots", name,
                      "it is made as it is read; NAME" KEPT_SUFFIX " keeps a snapshot");
}

static void now_tell_refused(struct node *node, const char *name)
{
    (void)name;
    const struct now_tar *now = (const struct now_tar *)node;
    tell_now_refused(now->tree, now->volume, now_format_name(now->format));
}

static const struct node_ops now_ops = {
    .waits = NODE_WAITS_GETATTR | NODE_WAITS_OPEN,
    .free = now_free,
    .getattr = now_getattr,
    .peek = now_peek,
    .open = now_open,
    .read = now_read,
    .release = now_release,
    .get_xattr = now_get_xattr,
    .list_xattrs = now_list_xattrs,
    .tell_refused = now_tell_refused,
};

static struct node *now_new(struct tree *tree, const char *volume, enum now_format format,
                            pid_t process)
{
    struct now_tar *now = calloc(1, sizeof(*now));
    if (!now || !(now->volume = strdup(volume)) ||
        !(now->moment = moment_find(tree->moments, volume, format, process))) {
        if (now)
            free(now->volume);
        free(now);
        return NULL;
    }
    now->tree = tree;
    now->format = format;
    node_init(&now->node, &now_ops, INO_MOMENT | moment_serial(now->moment));
    if (volumes_way(tree->volumes, volume) != VOLUMES_ACCESS_LOCAL)
        now->node.waits |= NODE_WAITS_READ;
    return &now->node;
}

/* ---- what is dropped here -------------------------------------------------------- */

/* The snapshot that a name here stands for, in name: false where it can be none. */
static bool kept_name(const char *file_name, char name[256])
{
    size_t len = strlen(file_name), suffix = sizeof(KEPT_SUFFIX) - 1;
    if (len <= suffix || len > 255 || strcmp(file_name + len - suffix, KEPT_SUFFIX) != 0)
        return false;
    memcpy(name, file_name, len - suffix);
    name[len - suffix] = '\0';
    return store_is_name(name);
}

static bool is_kept_name(const char *file_name)
{
    char name[256];
    return kept_name(file_name, name);
}

/* touch(1) uses none of these. */
#define FILLING (O_TRUNC | O_EXCL | O_APPEND)

static int keep_attempt(struct inbox_file *file, const char *file_name,
                        const struct request *request, struct buf *receipt, struct fail *why)
{
    (void)receipt;
    const struct inbox *inbox = file->inbox;
    struct kept *kept = inbox->tree->kept;
    char name[256];
    if (!kept_name(file_name, name))
        return fail_set(why, EINVAL, "no name for a snapshot");
    if (file->bytes == 0 && file->flags & FILLING)
        return fail_set(why, EILSEQ, "nothing was written");
    if (file->bytes == 0)
        return kept_take(kept, inbox->volume, name, request->cancel, why);
    return kept_import(kept, inbox->volume, name, file->fd, request->cancel, why);
}

static const struct inbox_purpose keeping = {
    .place = "snapshots",
    .is_final_name = is_kept_name,
    .wanted = "NAME" KEPT_SUFFIX ", NAME being made of A-Z a-z 0-9 _ . -",
    .attempt = keep_attempt,
    .verb = "kept",
    .tells_success = true,
    .leaves_receipt = false,
    .filling = FILLING,
};

/* ---- the directory ------------------------------------------------------------ */

struct snapshots {
    struct node node;
    struct tree *tree;
    uint64_t id;
    char *volume;
    struct inbox *inbox;
};

static void snapshots_free(struct node *node)
{
    free(((struct snapshots *)node)->volume);
    free(node);
}

static int snapshots_getattr(struct node *node, const struct request *request,
                             struct stat *ret_stat, double *ret_seconds)
{
    (void)request;
    tree_stat_dir(((struct snapshots *)node)->tree, 0700, ret_stat, ret_seconds);
    return 0;
}

static const struct {
    const char *name;
    enum now_format format;
} now_names[] = {
    {NOW_NAME, NOW_TAR},
    {NOW_NAME ".gz", NOW_TAR_GZ},
    {NOW_NAME ".zst", NOW_TAR_ZST},
};

static bool is_now_name(const char *name)
{
    size_t i = 0;
    while (i < sizeof(now_names) / sizeof(*now_names) && strcmp(name, now_names[i].name) != 0)
        i++;
    return i < sizeof(now_names) / sizeof(*now_names);
}

static int snapshots_lookup(struct node *node, const struct request *request, const char *name,
                            struct node **ret_child, double *ret_seconds)
{
    (void)ret_seconds; /* which moment a name stands for is decided each time */
    const struct snapshots *dir = (const struct snapshots *)node;
    for (size_t i = 0; i < sizeof(now_names) / sizeof(*now_names); i++) {
        if (strcmp(name, now_names[i].name) != 0)
            continue;
        *ret_child = now_new(dir->tree, dir->volume, now_names[i].format, request_process(request));
        return *ret_child ? 0 : -ENOMEM;
    }
    char kept[256];
    if (kept_name(name, kept)) /* what is being made has not got the name yet */
        return node_kept_new(dir->tree, dir->volume, kept, ret_child);
    return inbox_dir_lookup(dir->inbox, name, ret_child);
}

struct naming {
    node_emit_fn *emit;
    void *data;
};

static int emit_kept(void *data, const char *name)
{
    const struct naming *naming = data;
    cleanup_free char *file_name = NULL;
    if (asprintf(&file_name, "%s" KEPT_SUFFIX, name) < 0) {
        file_name = NULL;
        return -ENOMEM;
    }
    return naming->emit(naming->data, file_name, INO_KEPT, S_IFREG);
}

static int snapshots_list(struct node *node, node_emit_fn *emit, void *data)
{
    const struct snapshots *dir = (const struct snapshots *)node;
    struct naming naming = {.emit = emit, .data = data};
    int r = emit(data, NOW_NAME, INO_SNAPSHOTS(dir->id) + 32, S_IFREG);
    return r == 0 ? store_list(kept_store(dir->tree->kept), dir->volume, emit_kept, &naming, NULL)
                  : r;
}

static int snapshots_create(struct node *node, const char *name, int flags, mode_t mode,
                            struct node **ret_child, struct opened *ret_opened)
{
    return inbox_dir_create(((struct snapshots *)node)->inbox, name, flags, mode, ret_child,
                            ret_opened);
}

static int refuse_now(const struct snapshots *dir, const char *name)
{
    tell_now_refused(dir->tree, dir->volume, name);
    return -EPERM;
}

static int snapshots_unlink(struct node *node, const char *name)
{
    const struct snapshots *dir = (const struct snapshots *)node;
    int r = inbox_dir_unlink(dir->inbox, name);
    char kept[256];
    if (r != -ENOENT || !kept_name(name, kept))
        return r == -ENOENT && is_now_name(name) ? refuse_now(dir, name) : r;
    struct fail why = FAIL_INIT;
    r = tree_remove_kept(dir->tree, dir->volume, kept, &why);
    log_event(dir->tree->log, "%s/snapshots/%s: %s", dir->volume, name,
              r < 0 ? fail_text(&why, r) : "removed");
    return r;
}

static int snapshots_rename(struct node *node, const struct request *request, const char *from,
                            const char *to, bool no_replace)
{
    const struct snapshots *dir = (const struct snapshots *)node;
    char kept_from[256], kept_to[256];
    if (is_now_name(from))
        return refuse_now(dir, from);
    int r = inbox_dir_rename(dir->inbox, request, from, to, no_replace);
    if (r != -ENOENT || !kept_name(from, kept_from))
        return r;
    if (!kept_name(to, kept_to)) {
        inbox_dir_tell_refused(dir->inbox, to);
        return -EINVAL;
    }
    struct fail why = FAIL_INIT;
    r = kept_rename(dir->tree->kept, dir->volume, kept_from, kept_to, &why);
    if (r < 0)
        log_event(dir->tree->log, "%s/snapshots/%s: not renamed: %s", dir->volume, from,
                  fail_text(&why, r));
    return r;
}

static void snapshots_tell_refused(struct node *node, const char *name)
{
    inbox_dir_tell_refused(((const struct snapshots *)node)->inbox, name);
}

static const struct node_ops snapshots_ops = {
    .waits = NODE_WAITS_RENAME,
    .free = snapshots_free,
    .getattr = snapshots_getattr,
    .lookup = snapshots_lookup,
    .list = snapshots_list,
    .create = snapshots_create,
    .unlink = snapshots_unlink,
    .rename = snapshots_rename,
    .refuse_create = EPERM,
    .tell_refused = snapshots_tell_refused,
};

struct node *node_snapshots_new(struct tree *tree, const char *volume, uint64_t id)
{
    struct snapshots *dir = calloc(1, sizeof(*dir));
    if (!dir || !(dir->volume = strdup(volume)) ||
        !(dir->inbox = inbox_of(tree, volume, &keeping))) {
        if (dir)
            snapshots_free(&dir->node);
        return NULL;
    }
    node_init(&dir->node, &snapshots_ops, INO_SNAPSHOTS(id));
    dir->tree = tree;
    dir->id = id;
    return &dir->node;
}
