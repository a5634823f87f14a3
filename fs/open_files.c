/* SPDX-License-Identifier: MIT */
#include "fs/open_files.h"

struct open_files {
    pthread_mutex_t lock;
    struct open_file *first;
};

struct open_files *open_files_new(void)
{
    struct open_files *files = calloc(1, sizeof(*files));
    if (files)
        (void)pthread_mutex_init(&files->lock, NULL);
    return files;
}

static void take_out(struct open_files *files, struct open_file *file)
{
    scoped_lock(&files->lock);
    if (file->previous)
        file->previous->next = file->next;
    else
        files->first = file->next;
    if (file->next)
        file->next->previous = file->previous;
}

void open_files_close(struct open_files *files, struct open_file *file)
{
    take_out(files, file);
    atomic_fetch_sub(&file->node->open_count, 1);
    file->release(file->node, file->handle);
    node_unref(file->node);
    free(file);
}

void open_files_free(struct open_files *files)
{
    if (!files)
        return;
    while (files->first)
        open_files_close(files, files->first);
    (void)pthread_mutex_destroy(&files->lock);
    free(files);
}

struct open_file *open_files_add(struct open_files *files, struct node *node, struct handle *handle,
                                 void (*release)(struct node *node, struct handle *handle))
{
    struct open_file *file = malloc(sizeof(*file));
    if (!file)
        return NULL;
    *file = (struct open_file){.node = node_ref(node), .handle = handle, .release = release};
    atomic_fetch_add(&node->open_count, 1);
    scoped_lock(&files->lock);
    file->next = files->first;
    if (file->next)
        file->next->previous = file;
    files->first = file;
    return file;
}
