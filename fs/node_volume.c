/* SPDX-License-Identifier: MIT */
/* A volume: a directory of fixed names. */
#include "fs/tree.h"

#include "base/buf.h"

#include <stdio.h>
#include <string.h>

/* The engine's object of a volume and the list of its users. */
#define VOLUME_JSON_MAX_BYTES ((size_t)16 << 20)

struct volume_dir {
    struct node node;
    struct tree *tree;
    uint64_t id;
    char *name;
};

static void volume_free(struct node *node)
{
    free(((struct volume_dir *)node)->name);
    free(node);
}

static int volume_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                          double *ret_seconds)
{
    (void)request;
    tree_stat_dir(((struct volume_dir *)node)->tree, 0755, ret_stat, ret_seconds);
    return 0;
}

static int make_json(const struct volume_dir *dir, struct node **ret_child)
{
    struct view *view cleanup_view = volumes_view(dir->tree->volumes);
    const struct view_volume *volume = view_find(view, dir->name);
    if (!volume)
        return -ENOENT;
    struct buf text cleanup_buf;
    buf_init(&text, VOLUME_JSON_MAX_BYTES);
    int r = volumes_describe(dir->tree->volumes, view, volume, &text);
    if (r < 0)
        return r;
    cleanup_free char *where = NULL;
    if (asprintf(&where, "%s/volume.json", dir->name) < 0) {
        where = NULL;
        return -ENOMEM;
    }
    struct node *child = node_text_new(dir->tree, where, buf_string(&text), text.len);
    if (!child)
        return -ENOMEM;
    *ret_child = child;
    return 0;
}

static int make_snapshots(const struct volume_dir *dir, struct node **ret_child)
{
    struct node *child = node_snapshots_new(dir->tree, dir->name, dir->id);
    if (child)
        *ret_child = child;
    return child ? 0 : -ENOMEM;
}

/* Archive calls alone cannot show single files. */
static bool has_data(const struct volume_dir *dir)
{
    return volumes_way(dir->tree->volumes, dir->name) != VOLUMES_ACCESS_API;
}

static int make_data(const struct volume_dir *dir, struct node **ret_child)
{
    struct node *child = node_live_new(dir->tree, dir->name, dir->id);
    if (child)
        *ret_child = child;
    return child ? 0 : -ENOMEM;
}

static int make_browse(const struct volume_dir *dir, struct node **ret_child)
{
    struct node *child = node_browse_new(dir->tree, dir->name, dir->id);
    if (child)
        *ret_child = child;
    return child ? 0 : -ENOMEM;
}

static int make_restore(const struct volume_dir *dir, struct node **ret_child)
{
    struct node *child = node_restore_new(dir->tree, dir->name, dir->id);
    if (child)
        *ret_child = child;
    return child ? 0 : -ENOMEM;
}

static const struct child {
    const char *name;
    mode_t type;
    double trusted_seconds; /* 0: another node when the contents change */
    int (*make)(const struct volume_dir *dir, struct node **ret_child);
    bool (*exists)(const struct volume_dir *dir); /* NULL: always */
} children[] = {
    {"browse", S_IFDIR, 1, make_browse, NULL},    {"data", S_IFDIR, 1, make_data, has_data},
    {"restore", S_IFDIR, 1, make_restore, NULL},  {"snapshots", S_IFDIR, 1, make_snapshots, NULL},
    {"volume.json", S_IFREG, 0, make_json, NULL},
};
#define CHILD_COUNT (sizeof(children) / sizeof(*children))

static bool is_there(const struct volume_dir *dir, const struct child *child)
{
    return !child->exists || child->exists(dir);
}

static int volume_lookup(struct node *node, const struct request *request, const char *name,
                         struct node **ret_child, double *ret_seconds)
{
    (void)request;
    const struct volume_dir *dir = (const struct volume_dir *)node;
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        if (strcmp(children[i].name, name) != 0)
            continue;
        if (!is_there(dir, &children[i]))
            return -ENOENT;
        *ret_seconds = children[i].trusted_seconds;
        return children[i].make(dir, ret_child);
    }
    return -ENOENT;
}

static int volume_list(struct node *node, node_emit_fn *emit, void *data)
{
    const struct volume_dir *dir = (const struct volume_dir *)node;
    int r = 0;
    for (size_t i = 0; i < CHILD_COUNT && r == 0; i++)
        if (is_there(dir, &children[i]))
            r = emit(data, children[i].name, INO_VOLUME(dir->id) + 16 + i, children[i].type);
    return r;
}

static void volume_tell_refused(struct node *node, const char *name)
{
    const struct volume_dir *dir = (const struct volume_dir *)node;
    tree_tell_refused(dir->tree, dir->name, NULL, name,
                      "what is here is fixed; see help.txt in " CONTROL_NAME);
}

static const struct node_ops volume_ops = {
    .free = volume_free,
    .getattr = volume_getattr,
    .lookup = volume_lookup,
    .list = volume_list,
    .tell_refused = volume_tell_refused,
};

struct node *node_volume_new(struct tree *tree, const struct view_volume *volume)
{
    struct volume_dir *dir = calloc(1, sizeof(*dir));
    if (!dir || !(dir->name = strdup(volume->name))) {
        free(dir);
        return NULL;
    }
    node_init(&dir->node, &volume_ops, INO_VOLUME(volume->id));
    dir->tree = tree;
    dir->id = volume->id;
    return &dir->node;
}
