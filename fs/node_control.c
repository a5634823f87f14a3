/* SPDX-License-Identifier: MIT */
/* .dvolfs/: what the mount says about itself. */
#include "fs/tree.h"

#include "base/buf.h"

#include <cjson/cJSON.h>
#include <string.h>

static const char help_text[] =
    "dvolfs " DVOLFS_VERSION ": the volumes of a Docker engine as files\n"
    "\n"
    "VOLUME/                  a directory for each volume (docker volume ls)\n"
    "  volume.json            docker volume inspect, who uses it, how it is reached\n"
    "  data/                  the live contents, read-only (not with access=api)\n"
    "  snapshots/now.tar      an archive of this moment, made as it is read\n"
    "  snapshots/now.tar.gz   the same compressed (and .zst); not listed\n"
    "  snapshots/X.tar.zst    a kept snapshot\n"
    "  browse/X/              the same, opened as a directory\n"
    "  restore/               drop an archive here to unpack it over the volume\n"
    ".dvolfs/\n"
    "  help.txt               this page\n"
    "  jobs                   what runs, and how far it is\n"
    "  status.json            engine, version, options\n"
    "  log                    the last events, every refusal with its reason\n"
    "\n"
    "Back up:    cp VOLUME/snapshots/now.tar /backup/x.tar\n"
    "            rsync -t VOLUME/snapshots/now.tar /backup/x.tar\n"
    "Look:       ls VOLUME/data; tar tvf VOLUME/snapshots/now.tar\n"
    "Keep:       touch VOLUME/snapshots/X.tar.zst, or mkdir VOLUME/browse/X;\n"
    "            rm or rmdir deletes it, mv renames it, cp of an archive imports it\n"
    "Look back:  diff -r VOLUME/browse/X VOLUME/data; cp VOLUME/browse/X/file .\n"
    "Restore:    cp /backup/x.tar VOLUME/restore/\n"
    "            cp VOLUME/snapshots/X.tar.zst OTHER/restore/ clones a volume.\n"
    "            Takes tar, plain or compressed with gzip, zstd, xz, bzip2.  Its\n"
    "            exit status says how it went; VOLUME/restore/x.tar tells what was\n"
    "            done, or why nothing was.  rm clears it.\n"
    "New volume: docker volume create NAME; it appears here within a second.\n"
    "End:        umount this directory (fusermount3 -u as an ordinary user).\n"
    "\n"
    "An archive is checked from end to end before any of it is unpacked.  A\n"
    "volume that a running container may write to is not restored: stop it first.\n"
    "ls has no side effects; asking for the size of now.tar (ls -l, stat) makes it.\n"
    "More: man mount.dvolfs\n";

/* ---- the log: grows under its readers -------------------------------------- */

struct log_node {
    struct node node;
    struct tree *tree;
    uint64_t generation;
};

static void log_node_free(struct node *node)
{
    free(node);
}

static int log_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                       double *ret_seconds)
{
    (void)request, (void)ret_seconds;
    const struct log_node *self = (const struct log_node *)node;
    uint64_t bytes, generation;
    log_extent(self->tree->log, &bytes, &generation);
    node_stat_made_up(ret_stat, S_IFREG | 0600, generation == self->generation ? bytes : 0,
                      &self->tree->mounted_at);
    return 0;
}

static int log_open(struct node *node, const struct request *request, int flags,
                    struct opened *ret_opened)
{
    (void)node, (void)request, (void)flags;
    *ret_opened = (struct opened){.caching = OPEN_DIRECT};
    return 0;
}

static ssize_t log_node_read(struct node *node, struct handle *handle,
                             const struct request *request, void *data, size_t len, uint64_t offset)
{
    (void)handle, (void)request;
    const struct log_node *self = (const struct log_node *)node;
    return (ssize_t)log_read(self->tree->log, self->generation, offset, data, len);
}

static void log_tell_refused(struct node *node, const char *name)
{
    (void)name;
    tree_tell_refused(((const struct log_node *)node)->tree, NULL, CONTROL_NAME, "log",
                      "read-only");
}

static const struct node_ops log_ops = {
    .free = log_node_free,
    .getattr = log_getattr,
    .open = log_open,
    .read = log_node_read,
    .tell_refused = log_tell_refused,
};

static int make_log(struct tree *tree, struct node **ret_child)
{
    struct log_node *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    uint64_t bytes;
    log_extent(tree->log, &bytes, &self->generation);
    node_init(&self->node, &log_ops, INO_LOG + self->generation);
    self->tree = tree;
    *ret_child = &self->node;
    return 0;
}

/* ---- texts ------------------------------------------------------------------- */

#define JOBS_MAX_BYTES ((size_t)1 << 20)

static int make_help(struct tree *tree, struct node **ret_child)
{
    struct node *child =
        node_text_new(tree, CONTROL_NAME "/help.txt", help_text, sizeof(help_text) - 1);
    if (child)
        *ret_child = child;
    return child ? 0 : -ENOMEM;
}

/* Holds nothing that changes by itself: cp refuses a file whose inode changes
 * between stat and open, and a text's inode is its contents. */
static char *status_text(struct tree *tree)
{
    cJSON *object = cJSON_CreateObject();
    bool ok = cJSON_AddStringToObject(object, "dvolfs", DVOLFS_VERSION) &&
              volumes_status(tree->volumes, object) == 0 &&
              cJSON_AddStringToObject(object, "options", tree->options);
    char *text = ok ? cJSON_Print(object) : NULL;
    cJSON_Delete(object);
    return text;
}

static int make_status(struct tree *tree, struct node **ret_child)
{
    cleanup_free char *text = status_text(tree);
    struct buf line cleanup_buf;
    buf_init(&line, 65536);
    if (!text || buf_printf(&line, "%s\n", text) < 0)
        return -ENOMEM;
    struct node *child =
        node_text_new(tree, CONTROL_NAME "/status.json", buf_string(&line), line.len);
    if (child)
        *ret_child = child;
    return child ? 0 : -ENOMEM;
}

static int make_jobs(struct tree *tree, struct node **ret_child)
{
    struct buf lines cleanup_buf;
    buf_init(&lines, JOBS_MAX_BYTES);
    int r = jobs_print(tree->jobs, &lines);
    if (r < 0)
        return r;
    struct node *child = node_text_new(tree, CONTROL_NAME "/jobs", buf_string(&lines), lines.len);
    if (child)
        *ret_child = child;
    return child ? 0 : -ENOMEM;
}

/* ---- the directory -------------------------------------------------------------- */

static const struct child {
    const char *name;
    int (*make)(struct tree *tree, struct node **ret_child);
} children[] = {
    {"help.txt", make_help},
    {"jobs", make_jobs},
    {"log", make_log},
    {"status.json", make_status},
};
#define CHILD_COUNT (sizeof(children) / sizeof(*children))

struct control {
    struct node node;
    struct tree *tree;
};

static void control_free(struct node *node)
{
    free(node);
}

static int control_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                           double *ret_seconds)
{
    (void)request;
    tree_stat_dir(((struct control *)node)->tree, 0700, ret_stat, ret_seconds);
    return 0;
}

static int control_lookup(struct node *node, const struct request *request, const char *name,
                          struct node **ret_child, double *ret_seconds)
{
    (void)request, (void)ret_seconds;
    for (size_t i = 0; i < CHILD_COUNT; i++)
        if (strcmp(children[i].name, name) == 0)
            return children[i].make(((struct control *)node)->tree, ret_child);
    return -ENOENT;
}

static int control_list(struct node *node, node_emit_fn *emit, void *data)
{
    (void)node;
    int r = 0;
    for (size_t i = 0; i < CHILD_COUNT && r == 0; i++)
        r = emit(data, children[i].name, INO_CONTROL + 16 + i, S_IFREG);
    return r;
}

static void control_tell_refused(struct node *node, const char *name)
{
    tree_tell_refused(((const struct control *)node)->tree, NULL, CONTROL_NAME, name, "read-only");
}

static const struct node_ops control_ops = {
    .free = control_free,
    .getattr = control_getattr,
    .lookup = control_lookup,
    .list = control_list,
    .tell_refused = control_tell_refused,
};

struct node *node_control_new(struct tree *tree)
{
    struct control *control = calloc(1, sizeof(*control));
    if (!control)
        return NULL;
    node_init(&control->node, &control_ops, INO_CONTROL);
    control->tree = tree;
    return &control->node;
}
