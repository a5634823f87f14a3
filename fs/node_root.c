/* SPDX-License-Identifier: MIT */
/* The mountpoint: a directory for each volume, and .dvolfs. */
#include "fs/tree.h"

#include <string.h>

struct root {
    struct node node;
    struct tree *tree;
};

static void root_free(struct node *node)
{
    free(node);
}

static int root_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                        double *ret_seconds)
{
    (void)request;
    tree_stat_dir(((struct root *)node)->tree, 0755, ret_stat, ret_seconds);
    return 0;
}

static int root_lookup(struct node *dir, const struct request *request, const char *name,
                       struct node **ret_child, double *ret_seconds)
{
    (void)request;
    struct tree *tree = ((struct root *)dir)->tree;
    struct node *child;
    if (strcmp(name, CONTROL_NAME) == 0) {
        child = node_control_new(tree);
    } else {
        struct view *view cleanup_view = volumes_view(tree->volumes);
        const struct view_volume *volume = view_find(view, name);
        if (!volume)
            return -ENOENT;
        child = node_volume_new(tree, volume);
    }
    if (!child)
        return -ENOMEM;
    *ret_child = child;
    *ret_seconds = VOLUME_NAME_SECONDS;
    return 0;
}

static int root_list(struct node *dir, node_emit_fn *emit, void *data)
{
    struct tree *tree = ((struct root *)dir)->tree;
    struct view *view cleanup_view = volumes_view(tree->volumes);
    int r = emit(data, CONTROL_NAME, INO_CONTROL, S_IFDIR);
    for (size_t i = 0; i < view_count(view) && r == 0; i++) {
        const struct view_volume *volume = view_at(view, i);
        r = emit(data, volume->name, INO_VOLUME(volume->id), S_IFDIR);
    }
    return r;
}

static void root_tell_refused(struct node *node, const char *name)
{
    tree_tell_refused(((const struct root *)node)->tree, NULL, NULL, name,
                      "volumes are made by docker volume create, and removed by docker volume rm");
}

static const struct node_ops root_ops = {
    .free = root_free,
    .getattr = root_getattr,
    .lookup = root_lookup,
    .list = root_list,
    .refuse_create = EPERM,
    .tell_refused = root_tell_refused,
};

struct node *node_root_new(struct tree *tree)
{
    struct root *root = calloc(1, sizeof(*root));
    if (!root)
        return NULL;
    node_init(&root->node, &root_ops, INO_ROOT);
    root->tree = tree;
    return &root->node;
}
