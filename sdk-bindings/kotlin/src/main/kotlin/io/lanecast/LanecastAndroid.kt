package io.lanecast

/**
 * What Android asks for before the first client, and no other system: there the native library reaches the system's
 * verifier of certificates through Java, and needs the application's context for that.
 *
 * Was never run: there is no Android where this is tested.
 */
public object LanecastAndroid {
    /**
     * Call it once, before the first client: in `Application.onCreate` for example. Calling it again does nothing more.
     *
     * @param context an `android.content.Context`; any of the application's will do
     * @throws LanecastException.Library if the native library cannot be loaded, or is not Android's
     */
    public fun initialize(context: Any) {
        try {
            System.loadLibrary("lanecast_ffi")
            start(context)
        } catch (error: UnsatisfiedLinkError) {
            throw LanecastException.Library("lanecast_ffi cannot be loaded: ${error.message}").initCause(error)
        }
    }

    @JvmStatic
    private external fun start(context: Any)
}
