/* SPDX-License-Identifier: MIT */
#include "tar/entry.h"

#include <string.h>

static void xattrs_free(struct tar_entry *entry)
{
    for (size_t i = 0; i < entry->xattr_count; i++) {
        free(entry->xattrs[i].name);
        free(entry->xattrs[i].value);
    }
    free(entry->xattrs);
}

void tar_entry_done(struct tar_entry *entry)
{
    if (!entry)
        return;
    free(entry->name);
    free(entry->link_target);
    free(entry->extents);
    xattrs_free(entry);
    *entry = (struct tar_entry){0};
}

static struct tar_xattr *find_xattr(const struct tar_entry *entry, const char *name)
{
    for (size_t i = 0; i < entry->xattr_count; i++)
        if (strcmp(entry->xattrs[i].name, name) == 0)
            return &entry->xattrs[i];
    return NULL;
}

const struct tar_xattr *tar_entry_find_xattr(const struct tar_entry *entry, const char *name)
{
    return find_xattr(entry, name);
}

/* The attribute of that name, or a new empty one at the end; NULL: no memory. */
static struct tar_xattr *find_or_add_xattr(struct tar_entry *entry, const char *name)
{
    struct tar_xattr *found = find_xattr(entry, name);
    if (found)
        return found;
    struct tar_xattr *more =
        reallocarray(entry->xattrs, entry->xattr_count + 1, sizeof(*entry->xattrs));
    if (!more)
        return NULL;
    entry->xattrs = more;
    char *own_name = strdup(name);
    if (!own_name)
        return NULL;
    struct tar_xattr *xattr = &entry->xattrs[entry->xattr_count++];
    *xattr = (struct tar_xattr){.name = own_name};
    return xattr;
}

int tar_entry_add_xattr(struct tar_entry *entry, const char *name, const void *value,
                        size_t value_bytes)
{
    cleanup_free char *own_value = malloc(value_bytes ? value_bytes : 1);
    struct tar_xattr *xattr = own_value ? find_or_add_xattr(entry, name) : NULL;
    if (!xattr)
        return -ENOMEM;
    if (value_bytes)
        memcpy(own_value, value, value_bytes);
    free(xattr->value);
    xattr->value = take(own_value);
    xattr->value_bytes = value_bytes;
    return 0;
}

void tar_entry_clean_name(char *name)
{
    const char *in = name;
    char *out = name;
    if (*in == '/')
        *out++ = *in++;
    char *start = out;
    while (*in) {
        size_t len = strcspn(in, "/");
        if (len > 0 && !(len == 1 && in[0] == '.')) {
            if (out > start)
                *out++ = '/';
            memmove(out, in, len);
            out += len;
        }
        in += len;
        in += *in == '/';
    }
    *out = '\0';
}
