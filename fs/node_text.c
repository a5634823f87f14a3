/* SPDX-License-Identifier: MIT */
#include "fs/tree.h"

#include <string.h>

struct text {
    struct node node;
    struct tree *tree;
    char *where;
    size_t len;
    char bytes[];
};

/* FNV-1a, 64 bits (RFC 9923). */
static uint64_t hash(uint64_t h, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    return h;
}

static void text_free(struct node *node)
{
    free(((struct text *)node)->where);
    free(node);
}

static void text_tell_refused(struct node *node, const char *name)
{
    (void)name;
    const struct text *text = (const struct text *)node;
    tree_tell_refused(text->tree, NULL, NULL, text->where, "read-only");
}

static int text_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                        double *ret_seconds)
{
    (void)request;
    const struct text *text = (const struct text *)node;
    node_stat_made_up(ret_stat, S_IFREG | 0600, text->len, &text->tree->mounted_at);
    *ret_seconds = NODE_IMMUTABLE_SECONDS;
    return 0;
}

static int text_open(struct node *node, const struct request *request, int flags,
                     struct opened *ret_opened)
{
    (void)node, (void)request, (void)flags;
    *ret_opened = (struct opened){.caching = OPEN_KEEP_PAGES};
    return 0;
}

static ssize_t text_read(struct node *node, struct handle *handle, const struct request *request,
                         void *data, size_t len, uint64_t offset)
{
    (void)handle, (void)request;
    const struct text *text = (const struct text *)node;
    if (offset >= text->len)
        return 0;
    if (len > text->len - offset)
        len = text->len - (size_t)offset;
    memcpy(data, text->bytes + offset, len);
    return (ssize_t)len;
}

static const struct node_ops text_ops = {
    .free = text_free,
    .getattr = text_getattr,
    .open = text_open,
    .read = text_read,
    .tell_refused = text_tell_refused,
};

struct node *node_text_new(struct tree *tree, const char *where, const char *bytes, size_t len)
{
    struct text *text = malloc(sizeof(*text) + len + 1);
    char *copy = strdup(where);
    if (!text || !copy) {
        free(text);
        free(copy);
        return NULL;
    }
    text->where = copy;
    uint64_t h = hash(UINT64_C(0xcbf29ce484222325), where, strlen(where) + 1);
    node_init(&text->node, &text_ops, INO_TEXT | (hash(h, bytes, len) >> 2));
    text->tree = tree;
    text->len = len;
    memcpy(text->bytes, bytes, len);
    return &text->node;
}
