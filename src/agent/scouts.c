/* SPDX-License-Identifier: MIT */
#include "agent/scouts.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MAX_THREADS 3 /* beside the walk's own */
/* To wake a thread costs as much as to list a small directory: it is done for several. */
#define WAITING_TO_WAKE 4
/* Of records that are read between looks at whether anybody wants them still. */
#define READ_BYTES ((size_t)1 << 20)
/* A directory is parted that has more than twice as many names. */
#define PIECE_NAMES 1024
/* Parted ones at a time: each has a descriptor. */
#define MAX_PARTED 16

/* A directory that is listed in pieces. */
struct parted {
    struct listing *listing;
    atomic_uint users; /* its pieces' places */
};

/* A directory, or a piece of one. */
struct place {
    struct place *next;
    enum { WAITING, UNDER_WAY, READY } state;
    unsigned depth;
    unsigned piece;        /* its number, */
    struct parted *parted; /* of this; NULL: the whole directory, or not looked at yet */
    int result;            /* where it is READY, as the next two */
    struct buf records;
    struct scouts_told told;
    char path[];
};

struct scouts {
    int root;
    unsigned flags;
    size_t max_bytes;
    pthread_mutex_t lock;  /* of what follows */
    pthread_cond_t work;   /* for the threads */
    pthread_cond_t listed; /* for the walk */
    struct place *first;   /* as the walk will come to them */
    unsigned waiting;
    unsigned ready;
    size_t ready_bytes;
    atomic_bool stopping;
    atomic_uint parted_count;
    bool begun; /* the walk's own, like the next two */
    unsigned thread_count;
    pthread_t threads[MAX_THREADS];
};

struct scouts *scouts_new(int root, unsigned flags, size_t max_bytes)
{
    struct scouts *scouts = calloc(1, sizeof(*scouts));
    if (!scouts)
        return NULL;
    scouts->root = root;
    scouts->flags = flags;
    scouts->max_bytes = max_bytes;
    (void)pthread_mutex_init(&scouts->lock, NULL);
    (void)pthread_cond_init(&scouts->work, NULL);
    (void)pthread_cond_init(&scouts->listed, NULL);
    return scouts;
}

/* Gives up the piece. */
static void leave_parted(struct scouts *scouts, struct place *place)
{
    struct parted *parted = take(place->parted);
    if (!parted || atomic_fetch_sub(&parted->users, 1) > 1)
        return;
    listing_close(parted->listing);
    free(parted);
    atomic_fetch_sub(&scouts->parted_count, 1);
}

static void place_free(struct scouts *scouts, struct place *place)
{
    if (!place)
        return;
    leave_parted(scouts, place);
    buf_done(&place->records);
    free(place);
}

static void places_free(struct scouts *scouts, struct place *place)
{
    while (place) {
        struct place *next = place->next;
        place_free(scouts, place);
        place = next;
    }
}

void scouts_free(struct scouts *scouts)
{
    if (!scouts)
        return;
    (void)pthread_mutex_lock(&scouts->lock);
    atomic_store(&scouts->stopping, true);
    (void)pthread_cond_broadcast(&scouts->work);
    (void)pthread_mutex_unlock(&scouts->lock);
    for (unsigned i = 0; i < scouts->thread_count; i++)
        (void)pthread_join(scouts->threads[i], NULL);
    places_free(scouts, scouts->first);
    (void)pthread_cond_destroy(&scouts->listed);
    (void)pthread_cond_destroy(&scouts->work);
    (void)pthread_mutex_destroy(&scouts->lock);
    free(scouts);
}

/* ---- places --------------------------------------------------------------------- */

/* name: within the directory; NULL: the directory itself. */
static struct place *new_place(const struct scouts *scouts, const char *directory, const char *name,
                               unsigned depth)
{
    size_t bytes = strlen(directory) + 1 + (name ? strlen(name) : 0) + 1;
    struct place *place = calloc(1, sizeof(*place) + bytes);
    if (!place)
        return NULL;
    place->depth = depth;
    (void)snprintf(place->path, bytes, "%s%s%s", directory, name && directory[0] ? "/" : "",
                   name ? name : "");
    buf_init(&place->records, scouts->max_bytes);
    return place;
}

/* The next directories among the records, in order. */
static int make_places(const struct scouts *scouts, const char *path, unsigned depth,
                       const struct buf *records, struct scouts_told *told,
                       struct place **ret_first)
{
    struct file file;
    struct place **last = ret_first;
    int r = 1;
    while (r > 0 && told->position < records->len && told->count < SCOUTS_MAX_TOLD) {
        r = file_read(records->data, records->len, &told->position, &file);
        if (r <= 0 || !S_ISDIR(file.stat.mode))
            continue;
        told->count++;
        *last = new_place(scouts, path, file.name, depth);
        if (*last)
            last = &(*last)->next;
    }
    return r < 0 ? r : 0;
}

/* The places of all pieces of the directory but the first; NULL: no memory. */
static struct place *make_pieces(struct scouts *scouts, const struct place *first, size_t count,
                                 struct parted *parted)
{
    struct place *pieces = NULL;
    struct place **last = &pieces;
    for (size_t i = 1; i < count; i++) {
        *last = new_place(scouts, first->path, NULL, first->depth);
        if (!*last) {
            places_free(scouts, pieces);
            return NULL;
        }
        (*last)->piece = (unsigned)i;
        last = &(*last)->next;
    }
    for (struct place *piece = pieces; piece; piece = piece->next)
        piece->parted = parted;
    return pieces;
}

/* Parts the directory, whose first piece this becomes; *ret_others: the others.  False: it is
 * not large, or there is no room. */
static bool part(struct scouts *scouts, struct place *place, struct listing **listing,
                 struct place **ret_others)
{
    size_t count = (listing_count(*listing) + PIECE_NAMES - 1) / PIECE_NAMES;
    if (count <= 2)
        return false;
    cleanup_free struct parted *parted = malloc(sizeof(*parted));
    bool is_room = atomic_fetch_add(&scouts->parted_count, 1) < MAX_PARTED;
    if (is_room && parted)
        *ret_others = make_pieces(scouts, place, count, parted);
    if (!*ret_others) {
        atomic_fetch_sub(&scouts->parted_count, 1);
        return false;
    }
    *parted = (struct parted){.listing = take(*listing), .users = (unsigned)count};
    place->parted = take(parted);
    return true;
}

static int list_whole(const struct scouts *scouts, struct listing *listing, struct buf *records)
{
    int r;
    do
        r = atomic_load(&scouts->stopping)
                ? -EINTR
                : listing_next(listing, scouts->flags, READ_BYTES, records);
    while (r > 0);
    return r;
}

/* Lists the directory, or its first piece, or the piece. */
static int list(struct scouts *scouts, struct place *place, struct place **ret_others)
{
    struct listing *listing cleanup_listing = NULL;
    int r = place->parted ? 0 : listing_open(scouts->root, place->path, &listing);
    if (r < 0)
        return r;
    if (!place->parted && !part(scouts, place, &listing, ret_others))
        return list_whole(scouts, listing, &place->records);
    return listing_piece(place->parted->listing, (size_t)place->piece * PIECE_NAMES, PIECE_NAMES,
                         scouts->flags, &place->records);
}

/* With the lock. */
static void insert_places(struct scouts *scouts, struct place **at, struct place *first)
{
    struct place *next = *at;
    for (*at = first; *at; at = &(*at)->next)
        scouts->waiting++;
    *at = next;
}

/* With the lock. */
static void wake_if_worth_it(struct scouts *scouts)
{
    if (scouts->waiting >= WAITING_TO_WAKE && scouts->ready <= SCOUTS_MAX_READY / 2)
        (void)pthread_cond_broadcast(&scouts->work);
}

/* ---- the threads ---------------------------------------------------------------- */

static struct place *next_waiting(struct place *place)
{
    while (place && place->state != WAITING)
        place = place->next;
    return place;
}

/* What to list next; NULL: there is nothing to do now.  The first is left to the walk, which
 * would come and wait for it.  What is far away gets no more than half of the room. */
static struct place *find_work(const struct scouts *scouts)
{
    if (scouts->ready >= SCOUTS_MAX_READY)
        return NULL;
    struct place *first = next_waiting(scouts->first);
    struct place *place = first ? next_waiting(first->next) : NULL;
    if (!place)
        return NULL;
    bool is_near = place->depth >= scouts->first->depth;
    return scouts->ready_bytes <= SCOUTS_MAX_READY_BYTES / (is_near ? 1 : 2) ? place : NULL;
}

/* The directories within come right behind it, and then its other pieces: as the walk will. */
static void list_place(struct scouts *scouts, struct place *place)
{
    struct place *within = NULL;
    struct place *others = NULL;
    place->state = UNDER_WAY; /* nobody takes it out now */
    scouts->waiting--;
    (void)pthread_mutex_unlock(&scouts->lock);
    place->result = list(scouts, place, &others);
    if (place->result == 0)
        place->result = make_places(scouts, place->path, place->depth + 1, &place->records,
                                    &place->told, &within);
    (void)pthread_mutex_lock(&scouts->lock);
    place->state = READY;
    scouts->ready++;
    scouts->ready_bytes += place->records.len;
    insert_places(scouts, &place->next, others);
    insert_places(scouts, &place->next, within);
    (void)pthread_cond_signal(&scouts->listed);
    wake_if_worth_it(scouts);
}

static void *scout(void *data)
{
    struct scouts *scouts = data;
    (void)pthread_mutex_lock(&scouts->lock);
    while (!atomic_load(&scouts->stopping)) {
        struct place *place = find_work(scouts);
        if (place)
            list_place(scouts, place);
        else
            (void)pthread_cond_wait(&scouts->work, &scouts->lock);
    }
    (void)pthread_mutex_unlock(&scouts->lock);
    return NULL;
}

/* As many as there are processors that the walk leaves alone. */
static void start_threads(struct scouts *scouts)
{
    if (scouts->begun)
        return;
    scouts->begun = true;
    cpu_set_t set;
    CPU_ZERO(&set);
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) - 1 : 0;
    for (int i = 0; i < count && i < MAX_THREADS; i++) {
        if (pthread_create(&scouts->threads[i], NULL, scout, scouts) != 0)
            break;
        scouts->thread_count++;
    }
}

/* ---- the walk ------------------------------------------------------------------- */

/* Puts them behind all that are at least as deep. */
static void add_places(struct scouts *scouts, struct place *first, unsigned depth)
{
    if (!first)
        return;
    start_threads(scouts);
    (void)pthread_mutex_lock(&scouts->lock);
    struct place **at = &scouts->first;
    while (*at && (*at)->depth >= depth)
        at = &(*at)->next;
    insert_places(scouts, at, first);
    wake_if_worth_it(scouts);
    (void)pthread_mutex_unlock(&scouts->lock);
}

int scouts_tell(struct scouts *scouts, const char *path, unsigned depth, const struct buf *records,
                struct scouts_told *told)
{
    struct place *first = NULL;
    if (scouts->begun && scouts->thread_count == 0)
        return 0;
    int r = make_places(scouts, path, depth, records, told, &first);
    add_places(scouts, first, depth);
    return r;
}

/* Where it is pointed to from; there is NULL if nobody told of it. */
static struct place **find_place(struct scouts *scouts, const char *path, unsigned piece)
{
    struct place **at = &scouts->first;
    while (*at && ((*at)->piece != piece || strcmp((*at)->path, path) != 0))
        at = &(*at)->next;
    return at;
}

/* Takes it out, listed, or not yet begun; NULL: nobody told of it.  Instead of waiting for one
 * under way the walk does what the scouts would do next. */
static struct place *take_place(struct scouts *scouts, const char *path, unsigned piece)
{
    struct place **at;
    (void)pthread_mutex_lock(&scouts->lock);
    while (*(at = find_place(scouts, path, piece)) && (*at)->state == UNDER_WAY) {
        struct place *next = find_work(scouts);
        if (next)
            list_place(scouts, next);
        else
            (void)pthread_cond_wait(&scouts->listed, &scouts->lock);
    }
    struct place *place = *at;
    if (place) {
        *at = place->next;
        place->next = NULL;
        scouts->waiting -= place->state == WAITING;
        scouts->ready -= place->state == READY;
        scouts->ready_bytes -= place->records.len; /* 0 of one that is WAITING */
        wake_if_worth_it(scouts);
    }
    (void)pthread_mutex_unlock(&scouts->lock);
    return place;
}

/* What no scout has listed, or failed to: that may be due to there being several, without
 * memory or descriptors. */
static int list_now(struct scouts *scouts, struct place *place)
{
    struct place *others = NULL;
    buf_clear(&place->records);
    place->told = (struct scouts_told){0};
    int r = list(scouts, place, &others);
    add_places(scouts, others, place->depth + 1); /* before all that is not within it */
    return r;
}

int scouts_list(struct scouts *scouts, const char *path, unsigned depth, unsigned piece,
                struct buf *records, struct scouts_told *ret_told)
{
    struct place *place = take_place(scouts, path, piece);
    if (!place && piece == 0)
        place = new_place(scouts, path, NULL, depth);
    if (!place)
        return -ENOMEM;
    int r = place->state == READY && place->result == 0 ? 0 : list_now(scouts, place);
    if (r == 0) {
        size_t end = ((size_t)piece + 1) * PIECE_NAMES;
        r = place->parted && end < listing_count(place->parted->listing);
        buf_done(records);
        *records = place->records;
        *ret_told = place->told;
        buf_init(&place->records, 0);
    }
    place_free(scouts, place);
    return r;
}
