/* SPDX-License-Identifier: MIT */
/* The directory of an inbox: names, and what becomes of a file that gets one. */
#include "fs/inbox.h"
#include "job/restore.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_BYTES 255

int inbox_dir_lookup(struct inbox *inbox, const char *name, struct node **ret_child)
{
    scoped_lock(&inbox->lock);
    struct inbox_file *file = *inbox_find(inbox, name);
    if (!file)
        return -ENOENT;
    *ret_child = node_ref(&file->node);
    return 0;
}

int inbox_dir_list(struct inbox *inbox, node_emit_fn *emit, void *data)
{
    scoped_lock(&inbox->lock);
    int r = 0;
    for (struct inbox_file *file = inbox->files; file && r == 0; file = file->next)
        r = emit(data, file->name, file->node.ino, S_IFREG);
    return r;
}

void inbox_dir_tell_refused(const struct inbox *inbox, const char *name)
{
    char why[256];
    (void)snprintf(why, sizeof(why), "what is here are files with names like %s",
                   inbox->purpose->wanted);
    tree_tell_refused(inbox->tree, inbox->volume, inbox->purpose->place, name, why);
}

/* is_filled: it is to have contents. */
static int check_name(struct inbox *inbox, const char *name, bool is_filled)
{
    if (strlen(name) > NAME_MAX_BYTES)
        return -ENAMETOOLONG;
    if (inbox->purpose->is_final_name(name) || (is_filled && restore_is_temporary_name(name)))
        return 0;
    inbox_dir_tell_refused(inbox, name);
    return -EINVAL;
}

int inbox_dir_create(struct inbox *inbox, const char *name, int flags, mode_t mode,
                     struct node **ret_child, struct opened *ret_opened)
{
    int filling = inbox->purpose->filling;
    int r = check_name(inbox, name, !filling || flags & filling);
    if (r < 0)
        return r;
    struct inbox_file *file = inbox_file_new(inbox, name, flags, mode);
    if (!file)
        return -ENOMEM;
    r = inbox_file_open(&file->node, NULL, O_RDWR | O_TRUNC, ret_opened);
    if (r == 0) {
        scoped_lock(&inbox->lock);
        struct inbox_file **at = inbox_find(inbox, name);
        if (*at) {
            r = -EEXIST;
        } else {
            *at = file;
            *ret_child = node_ref(&file->node);
        }
    }
    if (r == -EEXIST)
        inbox_file_release(&file->node, ret_opened->handle);
    if (r < 0)
        node_unref(&file->node);
    return r;
}

/* With the lock: takes the file out of the list; its reference is the caller's. */
static struct inbox_file *take_out(struct inbox *inbox, const char *name)
{
    struct inbox_file **at = inbox_find(inbox, name);
    struct inbox_file *file = *at;
    if (file) {
        *at = file->next;
        file->next = NULL;
    }
    return file;
}

int inbox_dir_unlink(struct inbox *inbox, const char *name)
{
    struct inbox_file *file;
    {
        scoped_lock(&inbox->lock);
        file = take_out(inbox, name);
    }
    if (!file)
        return -ENOENT;
    node_unref(&file->node);
    return 0;
}

/* Gives the file its new name, in the place of one that had it. */
static int give_name(struct inbox *inbox, struct inbox_file *file, const char *from, const char *to)
{
    char *name = strdup(to);
    if (!name)
        return -ENOMEM;
    struct inbox_file *replaced;
    {
        scoped_lock(&inbox->lock);
        if (*inbox_find(inbox, from) != file) {
            free(name);
            return -ENOENT;
        }
        replaced = take_out(inbox, to);
        free(file->name);
        file->name = name;
    }
    if (replaced)
        node_unref(&replaced->node);
    return 0;
}

/* A refused archive keeps its temporary name for whoever wrote it to clear away;
 * the reason can be read under the name it was meant for. */
static void leave_receipt(struct inbox *inbox, const char *name, char *receipt)
{
    struct inbox_file *file = receipt ? inbox_file_new(inbox, name, 0, 0600) : NULL;
    if (!file) {
        free(receipt);
        return;
    }
    file->receipt = receipt;
    struct inbox_file *replaced;
    {
        scoped_lock(&inbox->lock);
        replaced = take_out(inbox, name);
        *inbox_find(inbox, name) = file;
    }
    if (replaced)
        node_unref(&replaced->node);
}

static int rename_file(struct inbox *inbox, struct inbox_file *file, const char *from,
                       const char *to, const struct request *request)
{
    if (!inbox->purpose->is_final_name(to))
        return give_name(inbox, file, from, to);
    char *receipt = NULL;
    int r = inbox_file_try(file, to, request, &receipt);
    if (!inbox->purpose->leaves_receipt) {
        free(receipt);
        return r < 0 ? r : inbox_dir_unlink(inbox, from);
    }
    if (r < 0) {
        leave_receipt(inbox, to, receipt);
        return r;
    }
    inbox_file_tell(file, receipt);
    return give_name(inbox, file, from, to);
}

int inbox_dir_rename(struct inbox *inbox, const struct request *request, const char *from,
                     const char *to, bool no_replace)
{
    int r = check_name(inbox, to, true);
    if (r < 0)
        return r;
    struct inbox_file *file;
    {
        scoped_lock(&inbox->lock);
        file = *inbox_find(inbox, from);
        if (!file)
            return -ENOENT;
        if (no_replace && *inbox_find(inbox, to))
            return -EEXIST;
        (void)node_ref(&file->node);
    }
    if (strcmp(from, to) != 0)
        r = rename_file(inbox, file, from, to, request);
    node_unref(&file->node);
    return r;
}
