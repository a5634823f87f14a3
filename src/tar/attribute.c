/* SPDX-License-Identifier: MIT */
#include "tar/attribute.h"

#include "tar/acl.h"

#include <endian.h>
#include <linux/capability.h>
#include <linux/limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* linux security/commoncap.c, cap_convert_nscap */
static bool is_capability(const struct tar_xattr *xattr)
{
    struct vfs_ns_cap_data data;
    memset(&data, 0, sizeof(data));
    if (xattr->value_bytes > sizeof(data) || xattr->value_bytes < sizeof(data.magic_etc))
        return false;
    memcpy(&data, xattr->value, xattr->value_bytes);
    uint32_t revision = le32toh(data.magic_etc) & ~(uint32_t)VFS_CAP_FLAGS_EFFECTIVE;
    if (xattr->value_bytes == XATTR_CAPS_SZ_2)
        return revision == VFS_CAP_REVISION_2;
    return xattr->value_bytes == XATTR_CAPS_SZ_3 && revision == VFS_CAP_REVISION_3 &&
           le32toh(data.rootid) != UINT32_MAX;
}

enum attribute_kind attribute_kind(const struct tar_entry *entry, const struct tar_xattr *xattr)
{
    static const char *const spaces[] = {"user.", "trusted.", "security."};
    const char *name = xattr->name;
    if (strcmp(name, TAR_ACL_ACCESS) == 0 || strcmp(name, TAR_ACL_DEFAULT) == 0)
        return S_ISLNK(entry->mode) ? ATTRIBUTE_FOREIGN : ATTRIBUTE_FINE; /* see tar/acl.h */
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof(spaces) / sizeof(*spaces); i++)
        if (strncmp(name, spaces[i], strlen(spaces[i])) == 0)
            bytes = strlen(spaces[i]);
    if (bytes == 0)
        return ATTRIBUTE_FOREIGN;
    bool is_sound = name[bytes] && strlen(name) <= XATTR_NAME_MAX &&
                    xattr->value_bytes <= XATTR_SIZE_MAX &&
                    (strcmp(name, "security.capability") != 0 || is_capability(xattr));
    return is_sound ? ATTRIBUTE_FINE : ATTRIBUTE_IMPOSSIBLE;
}

size_t attribute_remove_foreign(struct tar_entry *entry)
{
    size_t kept = 0;
    size_t count = entry->xattr_count;
    for (size_t i = 0; i < count; i++) {
        struct tar_xattr *xattr = &entry->xattrs[i];
        if (attribute_kind(entry, xattr) == ATTRIBUTE_FOREIGN) {
            free(xattr->name);
            free(xattr->value);
        } else {
            entry->xattrs[kept++] = *xattr;
        }
    }
    entry->xattr_count = kept;
    return count - kept;
}
