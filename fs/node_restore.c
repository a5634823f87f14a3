/* SPDX-License-Identifier: MIT */
/* restore/: what is written here under the name of an archive is restored when
 * it is closed, or gets that name. */
#include "job/restore.h"

#include "fs/inbox.h"

struct restore_dir {
    struct node node;
    struct inbox *inbox;
};

static int restore_attempt(struct inbox_file *file, const char *name, const struct request *request,
                           struct buf *receipt, struct fail *why)
{
    struct inbox *inbox = file->inbox;
    return restore_run(inbox->tree->volumes,
                       &(struct restore_request){.volume = inbox->volume,
                                                 .name = name,
                                                 .fd = file->fd,
                                                 .jobs = inbox->tree->jobs,
                                                 .turn = &inbox->turn},
                       request->cancel, receipt, why);
}

static const struct inbox_purpose restoring = {
    .place = "restore",
    .is_final_name = restore_is_archive_name,
    .wanted = "x.tar, .tar.gz (.tgz), .tar.zst (.tzst), .tar.xz (.txz) or .tar.bz2 (.tbz2)",
    .attempt = restore_attempt,
    .verb = "restored",
    .leaves_receipt = true,
};

static void dir_free(struct node *node)
{
    free(node);
}

static struct inbox *inbox_in(struct node *node)
{
    return ((struct restore_dir *)node)->inbox;
}

static int dir_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                       double *ret_seconds)
{
    (void)request;
    tree_stat_dir(inbox_in(node)->tree, 0700, ret_stat, ret_seconds);
    return 0;
}

static int dir_lookup(struct node *node, const struct request *request, const char *name,
                      struct node **ret_child, double *ret_seconds)
{
    (void)request, (void)ret_seconds;
    return inbox_dir_lookup(inbox_in(node), name, ret_child);
}

static int dir_list(struct node *node, node_emit_fn *emit, void *data)
{
    return inbox_dir_list(inbox_in(node), emit, data);
}

static int dir_create(struct node *node, const char *name, int flags, mode_t mode,
                      struct node **ret_child, struct opened *ret_opened)
{
    return inbox_dir_create(inbox_in(node), name, flags, mode, ret_child, ret_opened);
}

static int dir_unlink(struct node *node, const char *name)
{
    return inbox_dir_unlink(inbox_in(node), name);
}

static int dir_rename(struct node *node, const struct request *request, const char *from,
                      const char *to, bool no_replace)
{
    return inbox_dir_rename(inbox_in(node), request, from, to, no_replace);
}

static void dir_tell_refused(struct node *node, const char *name)
{
    inbox_dir_tell_refused(inbox_in(node), name);
}

static const struct node_ops dir_ops = {
    .waits = NODE_WAITS_RENAME,
    .free = dir_free,
    .getattr = dir_getattr,
    .lookup = dir_lookup,
    .list = dir_list,
    .create = dir_create,
    .unlink = dir_unlink,
    .rename = dir_rename,
    .refuse_create = EPERM,
    .tell_refused = dir_tell_refused,
};

struct node *node_restore_new(struct tree *tree, const char *volume, uint64_t id)
{
    struct restore_dir *dir = calloc(1, sizeof(*dir));
    if (!dir || !(dir->inbox = inbox_of(tree, volume, &restoring))) {
        free(dir);
        return NULL;
    }
    node_init(&dir->node, &dir_ops, INO_RESTORE(id));
    return &dir->node;
}
