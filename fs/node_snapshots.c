/* SPDX-License-Identifier: MIT */
/* snapshots/: now.tar, of which each moment is a file of its own. */
#include "fs/tree.h"

#include <inttypes.h>
#include <string.h>

#define NOW_TAR "now.tar"

/* ---- now.tar --------------------------------------------------------------- */

struct now_tar {
    struct node node;
    struct moment *moment;
};

static void now_free(struct node *node)
{
    moment_unref(((struct now_tar *)node)->moment);
    free(node);
}

static int now_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                       double *ret_seconds)
{
    (void)ret_seconds; /* the next one who asks may have to wait for it to be made */
    struct now_archive_info info;
    int r = moment_stat(((struct now_tar *)node)->moment, request_process(request), request->cancel,
                        &info);
    if (r < 0)
        return r;
    node_stat_made_up(ret_stat, S_IFREG | 0600, info.bytes, &info.newest);
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
    *ret_opened = (struct opened){.caching = OPEN_KEEP_PAGES};
    return 0;
}

static ssize_t now_read(struct node *node, struct handle *handle, const struct request *request,
                        void *data, size_t len, uint64_t offset)
{
    (void)handle, (void)request;
    return moment_read(((struct now_tar *)node)->moment, data, len, offset);
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
};

static struct node *now_new(struct tree *tree, const char *volume, pid_t process)
{
    struct now_tar *now = calloc(1, sizeof(*now));
    if (!now || !(now->moment = moment_find(tree->moments, volume, process))) {
        free(now);
        return NULL;
    }
    node_init(&now->node, &now_ops, INO_MOMENT | moment_serial(now->moment));
    if (volumes_way(tree->volumes, volume) != VOLUMES_ACCESS_LOCAL)
        now->node.waits |= NODE_WAITS_READ;
    return &now->node;
}

/* ---- the directory ------------------------------------------------------------ */

struct snapshots {
    struct node node;
    struct tree *tree;
    uint64_t id;
    char *volume;
};

static void snapshots_free(struct node *node)
{
    free(((struct snapshots *)node)->volume);
    free(node);
}

static int snapshots_getattr(struct node *node, const struct request *request,
                             struct stat *ret_stat, double *ret_seconds)
{
    (void)request, (void)ret_seconds;
    tree_stat_dir(((struct snapshots *)node)->tree, 0700, ret_stat);
    return 0;
}

static int snapshots_lookup(struct node *node, const struct request *request, const char *name,
                            struct node **ret_child, double *ret_seconds)
{
    (void)ret_seconds; /* 0: which moment the name stands for is decided each time */
    const struct snapshots *dir = (const struct snapshots *)node;
    if (strcmp(name, NOW_TAR) != 0)
        return -ENOENT;
    struct node *child = now_new(dir->tree, dir->volume, request_process(request));
    if (!child)
        return -ENOMEM;
    *ret_child = child;
    return 0;
}

static int snapshots_list(struct node *node, node_emit_fn *emit, void *data)
{
    const struct snapshots *dir = (const struct snapshots *)node;
    return emit(data, NOW_TAR, INO_SNAPSHOTS(dir->id) + 32, S_IFREG);
}

static const struct node_ops snapshots_ops = {
    .free = snapshots_free,
    .getattr = snapshots_getattr,
    .lookup = snapshots_lookup,
    .list = snapshots_list,
};

struct node *node_snapshots_new(struct tree *tree, const char *volume, uint64_t id)
{
    struct snapshots *dir = calloc(1, sizeof(*dir));
    if (!dir || !(dir->volume = strdup(volume))) {
        free(dir);
        return NULL;
    }
    node_init(&dir->node, &snapshots_ops, INO_SNAPSHOTS(id));
    dir->tree = tree;
    dir->id = id;
    return &dir->node;
}
