//! What Android needs before the first encrypted connection: certificates are judged by the system there, which is asked
//! through Java. Not tested: no machine of this project's has an Android SDK.

use jni::objects::{JClass, JObject};
use jni::{Env, EnvUnowned};

/// `io.lanecast.LanecastAndroid.start(context)`: hands the application's context to the verifier of certificates. A failure
/// is thrown in Java. Calling it again does nothing.
///
/// # Safety
///
/// Called by Java only, through JNI, which gives it valid references.
#[unsafe(no_mangle)]
pub extern "system" fn Java_io_lanecast_LanecastAndroid_start<'local>(
    mut env: EnvUnowned<'local>,
    _class: JClass<'local>,
    context: JObject<'local>,
) {
    let started = env.with_env(|env: &mut Env<'_>| rustls_platform_verifier::android::init_with_env(env, context));
    started.resolve::<jni::errors::ThrowRuntimeExAndDefault>();
}
